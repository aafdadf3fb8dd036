//! Consume and release: one atomic statement each call on PostgreSQL, one transaction on `SQLite`.

use entity::{Time, ids::UserId};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, RuntimeErr, sqlx};

use super::{Meter, Rolled};
use crate::store::usage::{Hold, Open, State, Taking, give_back, state, take};

/// The most that one call takes: far beyond any allowance, and no sum of such overflows.
pub const MAX_AMOUNT: i64 = 1_000_000_000;

/// The longest idempotency key, in characters.
pub const MAX_KEY_LENGTH: usize = 255;

/// How often a call looks again when another changed what it stood on: each time the other got on, so nobody waits for long.
const TRIES: u32 = 50;

/// How an allowance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Used in the open window.
    pub used: i64,
    /// The allowance; none is unlimited.
    pub limit: Option<i64>,
    /// Start of the open window.
    pub period_start: Time,
    /// When the next window begins.
    pub resets_at: Time,
}

impl Figures {
    /// What is left, never below 0; none is unlimited.
    pub fn remaining(&self) -> Option<i64> {
        self.limit.map(|limit| (limit - self.used).max(0))
    }
}

impl From<Open> for Figures {
    fn from(open: Open) -> Self {
        let Open { used, most, period_start, period_end } = open;
        Self { used, limit: most, period_start, resets_at: period_end }
    }
}

impl State {
    fn figures(&self) -> Result<Figures, DbErr> {
        let (Some(period_start), Some(resets_at)) = (self.usage_period_start, self.usage_period_end) else {
            return Err(DbErr::Custom("a user is not due and has no window; set `rolls_at` to the epoch".into()));
        };
        Ok(Figures { used: self.usage_count, limit: self.usage_limit, period_start, resets_at })
    }
}

/// What consuming came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How the allowance stands now.
    pub figures: Figures,
    /// How much of it this call took: 0 where its key had counted before.
    pub counted: i64,
    /// What had to be rolled before.
    pub rolled: Rolled,
}

/// Why nothing was consumed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Not a number of uses.
    #[error("`amount` must be a whole number from 1 to {MAX_AMOUNT}")]
    BadAmount,
    /// Not a key.
    #[error("`idempotency_key` must have 1 to {MAX_KEY_LENGTH} characters and no control characters")]
    BadKey,
    /// Nobody.
    #[error("there is no such user")]
    UserUnknown,
    /// The allowance does not hold as much. Nothing was counted, and the key is free.
    #[error("the allowance of this window does not hold as much")]
    Refused {
        /// How it stands.
        figures: Figures,
        /// What had to be rolled before.
        rolled: Rolled,
    },
    /// The key stands for something else.
    #[error("this `idempotency_key` has counted {taken} already; another amount needs another key")]
    KeyTaken {
        /// How much the key took.
        taken: i64,
    },
    /// The database.
    #[error("usage could not be counted: {0}")]
    Database(#[from] DbErr),
}

/// What releasing a key came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// How much was given back; 0 where there was nothing to give back.
    pub released: i64,
    /// Why nothing was given back, if nothing was.
    pub outcome: ReleaseOutcome,
    /// How the allowance stands now.
    pub figures: Figures,
    /// What had to be rolled before.
    pub rolled: Rolled,
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// What the key took is given back.
    Released,
    /// It was given back before.
    AlreadyReleased,
    /// The window in which it counted is over: there is nothing left to give it back to.
    WindowOver,
}

impl ReleaseOutcome {
    /// The text that is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::AlreadyReleased => "already_released",
            Self::WindowOver => "window_over",
        }
    }
}

/// Why nothing could be released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Not a key.
    #[error("`idempotency_key` must have 1 to {MAX_KEY_LENGTH} characters and no control characters")]
    BadKey,
    /// Nobody.
    #[error("there is no such user")]
    UserUnknown,
    /// Nothing counted under this key.
    #[error("nothing has counted under this `idempotency_key`")]
    KeyUnknown,
    /// The database.
    #[error("usage could not be released: {0}")]
    Database(#[from] DbErr),
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().count() <= MAX_KEY_LENGTH && !key.chars().any(char::is_control)
}

/// What a look at the ledger tells a caller who could not take.
enum Look {
    /// The user has to be rolled first.
    Due,
    /// The key has counted: it counts once.
    Counted(Figures),
    /// Not enough is left.
    Short(Figures),
    /// What stood in the way is gone.
    Clear,
}

fn look(state: &State, amount: i64) -> Result<Look, UsageError> {
    if state.due {
        return Ok(Look::Due);
    }
    let figures = state.figures()?;
    match state.amount.filter(|_| state.released_at.is_none()) {
        Some(taken) if taken == amount => return Ok(Look::Counted(figures)),
        Some(taken) => return Err(UsageError::KeyTaken { taken }),
        None => {}
    }
    Ok(match figures.limit {
        Some(limit) if figures.used > limit - amount => Look::Short(figures),
        _ => Look::Clear,
    })
}

impl Meter<'_> {
    /// Takes `amount` from a user's allowance, if it holds as much; with a key, once per key. A key that was released counts anew: whoever
    /// tries a failed piece of work again uses again.
    pub async fn consume(&self, user: UserId, amount: i64, key: Option<&str>) -> Result<Taken, UsageError> {
        if !(1..=MAX_AMOUNT).contains(&amount) {
            return Err(UsageError::BadAmount);
        }
        if key.is_some_and(|key| !is_key(key)) {
            return Err(UsageError::BadKey);
        }
        let mut rolled = Rolled::default();
        for _ in 0..TRIES {
            let attempt = Taking { user, amount, key, now: self.now };
            let seen = match self.attempt(attempt).await? {
                Attempt::Taken(open) => return Ok(Taken { figures: open.into(), counted: amount, rolled }),
                Attempt::Not(seen) => seen.ok_or(UsageError::UserUnknown)?,
            };
            match look(&seen, amount)? {
                Look::Due => rolled.add(self.roll(user).await?),
                Look::Counted(figures) => return Ok(Taken { figures, counted: 0, rolled }),
                Look::Short(figures) => return Err(UsageError::Refused { figures, rolled }),
                Look::Clear => {}
            }
        }
        Err(DbErr::Custom(format!("usage of {user} changed under each of {TRIES} tries to count it")).into())
    }

    async fn attempt(&self, taking: Taking<'_>) -> Result<Attempt, DbErr> {
        if self.db.backend() == DbBackend::Postgres {
            return match take(self.db.reader(), taking).await {
                Ok(Some(open)) => Ok(Attempt::Taken(open)),
                // By a statement of its own: what was waited for shows only now.
                Ok(None) => Ok(Attempt::Not(see(self.db.reader(), taking).await?)),
                Err(error) if is_rival(&error) => Ok(Attempt::Not(see(self.db.reader(), taking).await?)),
                Err(error) => Err(error),
            };
        }
        let tx = self.db.write().await?;
        match take(&*tx, taking).await? {
            Some(open) => {
                tx.commit().await?;
                Ok(Attempt::Taken(open))
            }
            None => Ok(Attempt::Not(see(&*tx, taking).await?)),
        }
    }

    /// Gives back what a key took, once, to the window in which it counted, while that goes on.
    pub async fn release(&self, user: UserId, key: &str) -> Result<Released, ReleaseError> {
        if !is_key(key) {
            return Err(ReleaseError::BadKey);
        }
        let mut rolled = Rolled::default();
        for _ in 0..TRIES {
            let tx = self.db.write().await?;
            let seen = state(&*tx, user, Some(key), self.now, Hold::User).await?.ok_or(ReleaseError::UserUnknown)?;
            let amount = seen.amount.ok_or(ReleaseError::KeyUnknown)?;
            if seen.due {
                drop(tx);
                rolled.add(self.roll(user).await?);
                continue;
            }
            let outcome = match (seen.released_at, seen.within) {
                (Some(_), _) => ReleaseOutcome::AlreadyReleased,
                (None, false) => ReleaseOutcome::WindowOver,
                (None, true) => ReleaseOutcome::Released,
            };
            if outcome != ReleaseOutcome::Released {
                return Ok(Released { released: 0, outcome, figures: seen.figures()?, rolled });
            }
            give_back(&*tx, user, key).await?;
            let seen = state(&*tx, user, Some(key), self.now, Hold::User).await?.ok_or(ReleaseError::UserUnknown)?;
            tx.commit().await?;
            return Ok(Released { released: amount, outcome, figures: seen.figures()?, rolled });
        }
        Err(DbErr::Custom(format!("usage of {user} changed under each of {TRIES} tries to release it")).into())
    }
}

enum Attempt {
    Taken(Open),
    /// With how the user stands; none for an unknown one.
    Not(Option<State>),
}

async fn see(db: &impl ConnectionTrait, taking: Taking<'_>) -> Result<Option<State>, DbErr> {
    state(db, taking.user, taking.key, taking.now, Hold::No).await
}

/// True where another call with the same key came first (23514, a check: see the statement), or made its record at the same moment
/// (23505).
fn is_rival(error: &DbErr) -> bool {
    matches!(error, DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner))
        if matches!(&**inner, sqlx::Error::Database(database)
            if matches!(database.code().as_deref(), Some("23514" | "23505"))))
}
