//! The walk over Stripe's subscriptions: a page is compared while the next one is fetched.

use std::collections::{BTreeSet, HashMap, HashSet};

use entity::{
    Time,
    enums::{DriftKind, SubscriptionStatus},
    ids::{CustomerId, SubscriptionId, UserId},
    stripe_customers, subscriptions, users,
};
use sea_orm::{ColumnTrait, Condition, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect};
use serde_json::{Value, json};

use super::{
    End, Run,
    absence::Seen,
    compare::{Verdict, judge, owners, tier},
    ledger::Found,
    observed::Observed,
};
use crate::{
    facts::{Rank, Subscription, UNCONFIRMED},
    processor::load::subscription,
    store::rowset::{text_in, uuid_in},
    stripe::{Collection, Lane, Page, StripeError, objects::completed},
};

/// What came of a walk that reached its end.
pub(super) struct Walked {
    /// What came.
    pub(super) seen: Seen,
    /// The second of the first page: what is newer than this may have come too late for the walk.
    pub(super) first_at: Option<Time>,
}

impl Run<'_> {
    /// Walks over everything, or over one user's customers.
    pub(super) async fn walk(&self) -> Result<Result<Walked, End>, DbErr> {
        let db = &self.reconciler.db;
        let mut walked = Walked { seen: Seen::default(), first_at: None };
        let collections = match self.options.user {
            None => {
                self.progress.expect(subscriptions::Entity::find().count(db.reader()).await?);
                vec![Collection::Subscriptions { customer: None }]
            }
            Some(user) => {
                let customers = self.customers_of(user).await?.into_iter();
                customers.map(|customer| Collection::Subscriptions { customer: Some(customer) }).collect()
            }
        };
        for collection in &collections {
            match self.pages(collection, &mut walked).await? {
                Ok(()) => {}
                // One customer that Stripe does not know says nothing of the others.
                Err(StripeError::Missing { .. }) if self.options.user.is_some() => {}
                Err(error) => {
                    let so_far = self.ledger.told().scanned;
                    let why = format!("{error} The walk ended after {so_far} subscriptions; nothing was repaired.");
                    return Ok(Err(End::Partial(why)));
                }
            }
        }
        let report = self.ledger.told();
        if self.options.user.is_none() && report.scanned == report.other_mode + report.unreadable {
            let living = self.living_here().count(db.reader()).await?;
            if living > 0 {
                let why = format!(
                    "Stripe shows none of our subscriptions, and {living} that are not over are stored here; from that nothing is concluded. \
                     Check that STRIPE_SECRET_KEY is of the right account and mode, and may read subscriptions"
                );
                return Ok(Err(End::Partial(why)));
            }
        }
        self.ledger.report(|report| report.complete = true);
        Ok(Ok(walked))
    }

    /// Walks over one list.
    async fn pages(&self, collection: &Collection, walked: &mut Walked) -> Result<Result<(), StripeError>, DbErr> {
        let stripe = &self.reconciler.stripe;
        let mut page = match stripe.list(collection, None, Lane::Background).await {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            walked.first_at.get_or_insert(page.at);
            for object in &page.objects {
                walked.seen.add(&object.id);
            }
            let last = page.objects.last().map(|object| object.id.clone());
            let after = if page.has_more { last } else { None };
            let next = async {
                match &after {
                    Some(after) => Some(stripe.list(collection, Some(after), Lane::Background).await),
                    None => None,
                }
            };
            let begins_nowhere = page.has_more && after.is_none();
            // The request goes out first; the page is read while it is on its way.
            let (next, compared) = tokio::join!(next, self.compare_page(page));
            if let Err(error) = compared? {
                return Ok(Err(error));
            }
            page = match next {
                None if begins_nowhere => return Ok(Err(endless("an empty page said that there are more"))),
                None => return Ok(Ok(())),
                Some(Ok(next)) if next.objects.last().map(|object| &object.id) == after.as_ref() => {
                    return Ok(Err(endless("a page ended where the one before it had ended")));
                }
                Some(Ok(next)) => next,
                Some(Err(error)) => return Ok(Err(error)),
            };
        }
    }

    async fn compare_page(&self, page: Page) -> Result<Result<(), StripeError>, DbErr> {
        let (at, size) = (page.at, page.objects.len() as u64);
        let mut observed = Vec::with_capacity(page.objects.len());
        let mut unreadable = 0;
        for object in &page.objects {
            let object = match completed(&*self.reconciler.stripe, &object.object, Lane::Background).await {
                Ok(object) => object,
                Err(error) => return Ok(Err(error)),
            };
            match Observed::read(&object, at) {
                Some(subscription) => observed.push(subscription),
                None => unreadable += 1,
            }
        }
        self.ledger.report(|report| {
            report.pages += 1;
            report.scanned += size;
            report.unreadable += unreadable;
        });
        self.compare(observed).await?;
        self.progress.add(size);
        Ok(Ok(()))
    }

    /// Compares some subscriptions with ours, set-wise, and notes what differs.
    pub(super) async fn compare(&self, mut observed: Vec<Observed>) -> Result<(), DbErr> {
        let before = observed.len();
        observed.retain(|theirs| self.is_ours(theirs.snapshot.livemode));
        let other_mode = (before - observed.len()) as u64;
        let known = self.known(&observed).await?;
        let mut found = Vec::new();
        let mut newer_here = 0;
        for theirs in observed {
            let local = known.subscriptions.get(&theirs.id);
            let mut verdict = judge(local, &theirs, &self.reconciler.catalog);
            if verdict == Verdict::NewerHere {
                newer_here += 1;
                continue;
            }
            let owner = known.owner(local, &theirs);
            if let Some(local) = local
                && let Some(difference) = owners(local.owner, owner)
            {
                // Where its own tie differs, that has been told.
                match &mut verdict {
                    Verdict::Same => verdict = Verdict::Differs(vec![difference]),
                    Verdict::Differs(told) if told.iter().all(|known| known.field != "user") => told.push(difference),
                    _ => {}
                }
            }
            self.notice(&mut found, local, &theirs, verdict, owner)?;
        }
        self.ledger.report(|report| {
            report.other_mode += other_mode;
            report.newer_here += newer_here;
        });
        self.ledger.note(&self.reconciler.db, found).await
    }

    /// What is to be noted of one subscription.
    fn notice(
        &self,
        found: &mut Vec<Found>,
        local: Option<&Subscription>,
        theirs: &Observed,
        verdict: Verdict,
        owner: Option<UserId>,
    ) -> Result<(), DbErr> {
        let catalog = &*self.reconciler.catalog;
        // Whoever has it now could lose by a repair.
        let user = local.and_then(|local| local.owner).or(owner);
        let id = theirs.id.to_string();
        let status = theirs.snapshot.status.clone();
        let living = !status.is_terminal();
        if living && owner.is_none() {
            found.push(Found {
                kind: DriftKind::UnknownUser,
                user: None,
                subscription: Some(id.clone()),
                differences: Vec::new(),
                local: None,
                stripe: Some(json!({
                    "status": status, "customer": theirs.customer, "user_id": theirs.named_user(),
                })),
            });
        }
        let entitling =
            matches!(status, SubscriptionStatus::Active | SubscriptionStatus::Trialing | SubscriptionStatus::PastDue);
        if entitling {
            let as_stored =
                Subscription { snapshot: theirs.snapshot.clone(), ..Subscription::unseen(theirs.id.clone()) };
            if tier(&as_stored, catalog) == "none" {
                let items = theirs.snapshot.items.iter();
                let prices: Vec<Value> =
                    items.map(|item| json!({"price": item.price_id, "product": item.product_id})).collect();
                found.push(Found {
                    kind: DriftKind::UnmappedPrice,
                    user,
                    subscription: Some(id.clone()),
                    differences: Vec::new(),
                    local: None,
                    stripe: Some(json!({ "status": status, "items": prices })),
                });
            }
        }
        let (kind, differences) = match verdict {
            Verdict::Same | Verdict::NewerHere => return Ok(()),
            Verdict::Missing => (DriftKind::Missing, Vec::new()),
            Verdict::Differs(differences) => (DriftKind::Differs, differences),
            Verdict::Ahead(differences) => (DriftKind::Ahead, differences),
        };
        let json = |value: &Observed| serde_json::to_value(value).map_err(|error| DbErr::Json(error.to_string()));
        let ours = local.map(|local| Observed {
            id: local.id.clone(),
            customer: local.customer.clone(),
            at: local.version.at,
            snapshot: local.snapshot.clone(),
        });
        found.push(Found {
            kind,
            user,
            subscription: Some(id),
            differences,
            local: ours.as_ref().map(json).transpose()?,
            stripe: Some(json(theirs)?),
        });
        Ok(())
    }

    /// What is stored of some subscriptions and of whom they may belong to: three queries, whatever their number.
    async fn known(&self, observed: &[Observed]) -> Result<Known, DbErr> {
        let mut known = Known::default();
        if observed.is_empty() {
            return Ok(known);
        }
        let (db, backend) = (self.reconciler.db.reader(), self.reconciler.db.backend());
        let ids = observed.iter().map(|theirs| theirs.id.to_string());
        for row in subscriptions::Entity::find().filter(text_in(backend, "id", ids)).all(db).await? {
            let row = subscription(row)?;
            known.subscriptions.insert(row.id.clone(), row);
        }
        let customers: BTreeSet<&CustomerId> = observed.iter().filter_map(|theirs| theirs.customer.as_ref()).collect();
        let rows: Vec<(CustomerId, Option<UserId>)> = stripe_customers::Entity::find()
            .select_only()
            .columns([stripe_customers::Column::Id, stripe_customers::Column::UserId])
            .filter(text_in(backend, "id", customers.iter().map(ToString::to_string)))
            .into_tuple()
            .all(db)
            .await?;
        known.owners.extend(rows.into_iter().filter_map(|(customer, user)| Some((customer, user?))));
        let linked: BTreeSet<UserId> = observed
            .iter()
            .filter_map(|theirs| Some(theirs.link()?.user))
            .chain(known.subscriptions.values().filter_map(|ours| Some(ours.link.as_ref()?.user)))
            .collect();
        // A host may have written a customer into a user's row of whom nothing else is known.
        let unowned = customers.iter().filter(|id| !known.owners.contains_key(**id)).map(ToString::to_string);
        let rows: Vec<(UserId, Option<String>)> = users::Entity::find()
            .select_only()
            .columns([users::Column::Id, users::Column::SubscriptionStripeCustomerId])
            .filter(Condition::any().add(uuid_in(backend, "id", linked.iter().map(|user| user.0))).add(text_in(
                backend,
                "subscription_stripe_customer_id",
                unowned,
            )))
            .into_tuple()
            .all(db)
            .await?;
        for (user, carried) in rows {
            known.users.insert(user);
            if let Some(customer) = carried.and_then(|id| CustomerId::parse(id).ok()) {
                known.owners.entry(customer).or_insert(user);
            }
        }
        Ok(known)
    }

    /// The subscriptions here that are not over, of our mode, or of none yet.
    pub(super) fn living_here(&self) -> sea_orm::Select<subscriptions::Entity> {
        use subscriptions::Column;
        let mut select = subscriptions::Entity::find()
            .filter(Column::Rank.lt(Rank::Terminal.number()))
            // The host's word, ended as nothing bore it out.
            .filter(Column::VersionEventId.ne(UNCONFIRMED));
        if let Some(livemode) = self.reconciler.livemode {
            let unsure = Column::Rank.lte(Rank::Provisional.number());
            select = select.filter(Condition::any().add(Column::Livemode.eq(livemode)).add(unsure));
        }
        if let Some(user) = self.options.user {
            select = select.filter(Column::UserId.eq(user));
        }
        select
    }

    /// Every customer that may have to do with a user.
    async fn customers_of(&self, user: UserId) -> Result<BTreeSet<CustomerId>, DbErr> {
        let db = self.reconciler.db.reader();
        let linked: Vec<CustomerId> = stripe_customers::Entity::find()
            .select_only()
            .column(stripe_customers::Column::Id)
            .filter(
                Condition::any()
                    .add(stripe_customers::Column::UserId.eq(user))
                    .add(stripe_customers::Column::LinkUserId.eq(user)),
            )
            .into_tuple()
            .all(db)
            .await?;
        let paying: Vec<Option<String>> = subscriptions::Entity::find()
            .select_only()
            .column(subscriptions::Column::StripeCustomerId)
            .filter(subscriptions::Column::UserId.eq(user))
            .into_tuple()
            .all(db)
            .await?;
        let row = users::Entity::find_by_id(user).one(db).await?;
        let carried = row.and_then(|row| row.subscription_stripe_customer_id);
        let named = paying.into_iter().chain([carried]).flatten().filter_map(|id| CustomerId::parse(id).ok());
        Ok(linked.into_iter().chain(named).collect())
    }
}

fn endless(what: &str) -> StripeError {
    StripeError::Protocol { message: format!("{what}, so that the list would have no end"), request: None }
}

/// What is stored of some subscriptions and of whom they may belong to.
#[derive(Debug, Default)]
struct Known {
    subscriptions: HashMap<SubscriptionId, Subscription>,
    owners: HashMap<CustomerId, UserId>,
    users: HashSet<UserId>,
}

impl Known {
    /// Whose it is once what Stripe shows is taken in; as [`crate::world`] derives it.
    fn owner(&self, local: Option<&Subscription>, theirs: &Observed) -> Option<UserId> {
        let link = theirs.link().max(local.and_then(|local| local.link.clone()));
        match link {
            Some(link) => self.users.contains(&link.user).then_some(link.user),
            None => self.owners.get(theirs.customer.as_ref()?).copied(),
        }
    }
}
