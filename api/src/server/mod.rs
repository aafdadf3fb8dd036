//! The HTTP server beneath the routes: hyper's connections, under bounds of our own.
//!
//! Whoever is slow may have a connection for a bounded time only, and there is a bounded number of them: at the bound, the connection that
//! has waited the longest for its client gives way to the new one. So nobody who is quick has to wait for those who are slow.
//!
//! - [`Server`]: accepts, sees connections through, and stops in order
//! - `connection`: one connection, from its handshake to its last answer
//! - `connections`: all of them, and who gives way
//! - `watched`: a stream that tells what its client does
//! - [`tls`]: encryption, with certificates that can be exchanged
//! - [`files`]: how many files the system grants

mod connection;
mod connections;
pub mod files;
pub mod tls;
mod watched;

use std::{io, sync::Arc, time::Duration};

use metrics::{Metrics, labels::RefusedConnection};
use poem::{Response, endpoint::BoxEndpoint};
use tokio::net::TcpListener;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

pub use self::connections::Limits;
use self::{connection::Line, connections::Connections, tls::Tls};
use crate::quiet::Quiet;

/// Before the system is asked again for a connection that it could not give.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// One listener and everything that came in by it.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    connections: Arc<Connections>,
}

impl Server {
    /// Takes a listener. Encrypts where there is a certificate.
    pub fn new(listener: TcpListener, tls: Option<Tls>, limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { listener, tls, connections: Arc::new(Connections::new(limits, metrics)) }
    }

    /// Serves until `stop` is cancelled; what is in flight by then has `drain` to be answered.
    pub async fn run(self, endpoint: BoxEndpoint<'static, Response>, stop: CancellationToken, drain: Duration) {
        let Self { listener, tls, connections } = self;
        let line = Arc::new(Line { endpoint, tls, stop: stop.clone(), cut: CancellationToken::new() });
        let _sweeper = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&connections).sweep()));
        let open = TaskTracker::new();
        let troubles = Quiet::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // Where there is no seat the socket is closed here.
                    if let Some(seat) = connections.seat() {
                        open.spawn(connection::see_through(Arc::clone(&line), socket, peer, seat));
                    }
                }
                // The client has gone already.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    let made_room = connections.make_room(RefusedConnection::NoFiles);
                    if let Some(unsaid) = troubles.may_say() {
                        tracing::error!(
                            %error, made_room, unsaid,
                            "the system gives no further connection; raise the limit of open files (LimitNOFILE, ulimit -n) or lower http.connections"
                        );
                    }
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_AGAIN) => {}
                    }
                }
            }
        }
        drop(listener);
        open.close();
        if tokio::time::timeout(drain, open.wait()).await.is_err() {
            line.cut.cancel();
            open.wait().await;
        }
    }
}

/// Whether only the connection that was to be accepted is at fault.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
