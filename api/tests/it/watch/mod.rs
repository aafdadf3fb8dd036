//! Rules, dashboards and documents speak of what is really exported, and everything that is exported is watched.
//!
//! - `files`: what `deploy/prometheus` and `deploy/grafana` hold; `queries`: what their queries ask for
//! - `series`: it is exported; `alerts`: each is tested, told of, and has its entry in the runbook; `dashboards`: their links lead somewhere

mod alerts;
mod dashboards;
mod files;
mod queries;
mod series;
