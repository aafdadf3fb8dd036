//! Connections, and who was turned away at the door.

use prometheus::{IntCounterVec, IntGauge, Registry};

use crate::{
    Metrics,
    families::{counters, registered},
    labels::{RefusedConnection, TokenScope},
};

/// The families about the server's outer edge.
#[derive(Debug)]
pub(crate) struct EdgeFamilies {
    connections: IntGauge,
    refused: IntCounterVec,
    auth_failures: IntCounterVec,
}

impl EdgeFamilies {
    pub(crate) fn new(r: &Registry) -> Self {
        let families = Self {
            connections: registered(r, IntGauge::new("trueup_http_connections", "Connections that are open now.")),
            refused: counters(
                r,
                "trueup_http_connections_refused_total",
                "Connections that were not taken, or were cut by this server, by reason.",
                &["reason"],
            ),
            auth_failures: counters(
                r,
                "trueup_auth_failures_total",
                "Requests that were refused because their token was wrong, by what it should have opened.",
                &["scope"],
            ),
        };
        for reason in RefusedConnection::ALL {
            let _ = families.refused.with_label_values(&[reason.as_str()]);
        }
        for scope in TokenScope::ALL {
            let _ = families.auth_failures.with_label_values(&[scope.as_str()]);
        }
        families
    }
}

impl Metrics {
    /// A connection was opened.
    pub fn connection_opened(&self) {
        self.edge.connections.inc();
    }

    /// A connection was closed, by whomever.
    pub fn connection_closed(&self) {
        self.edge.connections.dec();
    }

    /// A connection was not taken, or was cut.
    pub fn connection_refused(&self, reason: RefusedConnection) {
        self.edge.refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// A token was wrong.
    pub fn token_refused(&self, scope: TokenScope) {
        self.edge.auth_failures.with_label_values(&[scope.as_str()]).inc();
    }
}
