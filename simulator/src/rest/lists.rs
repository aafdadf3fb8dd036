//! Stripe's lists: newest first, a page at a time (docs.stripe.com/api/pagination).

use serde_json::{Value, json};

use super::params::Params;
use crate::account::Refusal;

/// Which page.
#[derive(Debug)]
pub(super) struct Page {
    limit: usize,
    after: Option<String>,
    before: Option<String>,
}

impl Page {
    /// `limit` is from 1 to 100, by default 10.
    pub(super) fn take(params: &mut Params) -> Result<Self, Refusal> {
        let limit = match params.number("limit")? {
            None => 10,
            Some(limit @ 1..=100) => usize::try_from(limit).unwrap_or(10),
            Some(limit) if limit > 100 => {
                let message = "Invalid integer: limit must be less than or equal to 100";
                return Err(Refusal::invalid(message, "limit").with_code("parameter_invalid_integer"));
            }
            Some(limit) => {
                let message = format!("This value must be greater than or equal to 1 (it currently is '{limit}').");
                return Err(Refusal::invalid(message, "limit").with_code("parameter_invalid_integer"));
            }
        };
        let (after, before) = (params.take("starting_after"), params.take("ending_before"));
        if after.is_some() && before.is_some() {
            let message = "You may only specify one of these parameters: starting_after, ending_before.";
            return Err(Refusal::invalid(message, "starting_after"));
        }
        Ok(Self { limit, after, before })
    }

    /// The page of what is given newest first. The cursor is an object that need not fit the filter itself.
    pub(super) fn of<T>(
        self,
        what: &str,
        url: &str,
        newest_first: impl Iterator<Item = T>,
        id: impl Fn(&T) -> &str,
        fits: impl Fn(&T) -> bool,
        render: impl Fn(&T) -> Value,
    ) -> Result<Value, Refusal> {
        let unknown = |id: &str, param: &str| Refusal { status: 400, ..Refusal::missing(what, id, param) };
        let mut rows = newest_first;
        let (chosen, has_more) = if let Some(before) = &self.before {
            let mut newer: Vec<T> = Vec::new();
            let mut met = false;
            for row in rows.by_ref() {
                if id(&row) == before {
                    met = true;
                    break;
                }
                if fits(&row) {
                    newer.push(row);
                }
            }
            if !met {
                return Err(unknown(before, "ending_before"));
            }
            let surplus = newer.len().saturating_sub(self.limit);
            newer.drain(..surplus);
            (newer, surplus > 0)
        } else {
            if let Some(after) = &self.after
                && !rows.by_ref().any(|row| id(&row) == after)
            {
                return Err(unknown(after, "starting_after"));
            }
            let mut older: Vec<T> = rows.filter(|row| fits(row)).take(self.limit + 1).collect();
            let has_more = older.len() > self.limit;
            older.truncate(self.limit);
            (older, has_more)
        };
        let data: Vec<Value> = chosen.iter().map(render).collect();
        Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
    }
}

/// `created=5`, `created[gte]=5` and so on.
#[derive(Debug, Default)]
pub(super) struct Range {
    from: Option<i64>,
    to: Option<i64>,
}

impl Range {
    pub(super) fn take(params: &mut Params, key: &str) -> Result<Self, Refusal> {
        let mut bound = |name: &str, shift: i64| -> Result<Option<i64>, Refusal> {
            Ok(params.number(&format!("{key}[{name}]"))?.map(|at| at.saturating_add(shift)))
        };
        let (gte, gt, lte, lt) = (bound("gte", 0)?, bound("gt", 1)?, bound("lte", 0)?, bound("lt", -1)?);
        let exact = params.number(key)?;
        let from = [gte, gt, exact].into_iter().flatten().max();
        Ok(Self { from, to: [lte, lt, exact].into_iter().flatten().min() })
    }

    pub(super) fn holds(&self, at: i64) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at <= to)
    }
}
