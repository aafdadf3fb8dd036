//! E-mails to be sent: written with the facts they tell of, in one transaction.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    enums::{EmailKind, EmailStatus},
    ids::UserId,
};

/// One e-mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DeriveEntityModel)]
#[sea_orm(table_name = "email_outbox")]
pub struct Model {
    /// Time-ordered (UUIDv7).
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// To whom.
    pub user_id: UserId,
    /// What about.
    pub kind: EmailKind,
    /// One e-mail per key, whatever is delivered twice.
    #[sea_orm(unique)]
    pub dedupe_key: String,
    /// What the text needs: amounts, links, dates.
    #[sea_orm(column_type = "JsonBinary")]
    pub data: Json,
    /// Where it stands.
    pub status: EmailStatus,
    /// Tries that failed.
    pub attempts: i32,
    /// When it is due; while it is claimed, when the claim runs out.
    pub next_attempt_at: Time,
    /// The instance that claimed it.
    pub claimed_by: Option<String>,
    /// The claim; a lost one can settle nothing.
    pub claim_token: Option<Uuid>,
    /// Tries of which nobody knows whether the e-mail went out.
    pub unknown_outcomes: i32,
    /// Last error.
    pub error: Option<String>,
    /// When the mail server took it.
    pub sent_at: Option<Time>,
    /// When it was queued.
    pub created_at: Time,
}

/// No relations: the domain reads sets of rows, never graphs.
#[derive(Debug, Clone, Copy, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
