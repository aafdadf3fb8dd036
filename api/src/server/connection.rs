//! One connection, from its handshake to its last answer.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::combinators::BoxBody;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use poem::{
    Addr, Endpoint, Request, Response,
    endpoint::BoxEndpoint,
    http::{self, StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{
    connections::{Seated, Visit},
    tls::Tls,
    watched::Watched,
};

/// What one connection may buffer of what it reads, in bytes; with it the largest head of a request.
const BUFFER: usize = 32 * 1024;
/// Requests that a connection of HTTP/2 may have at once.
const STREAMS: u32 = 100;
/// Bytes of bodies that it may send before anybody has read them: of one request, and of all.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Requests that were reset and not yet seen: beyond, the connection ends (CVE-2023-44487).
const RESETS: usize = 20;

/// What all connections of a listener share.
pub(super) struct Line {
    pub(super) endpoint: BoxEndpoint<'static, Response>,
    pub(super) tls: Option<Tls>,
    /// No more requests.
    pub(super) stop: CancellationToken,
    /// No more patience.
    pub(super) cut: CancellationToken,
}

/// Sees a connection through; it ends at once where its seat is taken from it.
pub(super) async fn see_through(line: Arc<Line>, socket: TcpStream, peer: SocketAddr, seated: Seated) {
    let seated = Arc::new(seated);
    let serving = async {
        // Answers are small and whole; a proxy or Stripe waits for them.
        let _ = socket.set_nodelay(true);
        let local = socket.local_addr().map_or_else(|_| LocalAddr::default(), |address| LocalAddr(Addr::from(address)));
        let ends = Ends { local, remote: RemoteAddr(Addr::from(peer)), scheme: Scheme::HTTP };
        let Some(tls) = &line.tls else { return serve(&line, socket, ends, &seated).await };
        seated.seat().handshake(true);
        let shaken = tls.accept(socket).await;
        seated.seat().handshake(false);
        match shaken {
            Ok(stream) => serve(&line, stream, Ends { scheme: Scheme::HTTPS, ..ends }, &seated).await,
            Err(error) => {
                seated.no_handshake();
                tracing::debug!(%peer, %error, "no handshake of TLS");
            }
        }
    };
    tokio::select! {
        biased;
        () = seated.seat().ended() => tracing::debug!(%peer, "cut a connection"),
        () = line.cut.cancelled() => {}
        () = serving => {}
    }
}

#[derive(Clone)]
struct Ends {
    local: LocalAddr,
    remote: RemoteAddr,
    scheme: Scheme,
}

async fn serve<S>(line: &Arc<Line>, stream: S, ends: Ends, seated: &Arc<Seated>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(seated.seat())));
    let service = service_fn(|request: http::Request<Incoming>| {
        let (line, ends, seated) = (Arc::clone(line), ends.clone(), Arc::clone(seated));
        async move { Ok::<_, Infallible>(answer(&line, request, ends, &seated).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(BUFFER);
    builder
        .http2()
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .max_header_list_size(16 * 1024)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let mut connection = pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = line.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %ends.remote, %error, "a connection broke off");
    }
}

async fn answer(
    line: &Line,
    request: http::Request<Incoming>,
    ends: Ends,
    seated: &Seated,
) -> http::Response<BoxBody<Bytes, io::Error>> {
    let has_body = !request.body().is_end_stream();
    let visit = Arc::new(seated.request(has_body));
    let mut request = Request::from((request, ends.local, ends.remote, ends.scheme));
    if has_body {
        let body = request.take_body().into();
        request.set_body(poem::Body::from(BoxBody::new(Counted { body, visit: Arc::clone(&visit) })));
    }
    // What is mounted catches its own panics; this is for whatever lies around it.
    let answered = AssertUnwindSafe(line.endpoint.get_response(request)).catch_unwind().await;
    let response = answered.unwrap_or_else(|_panic| {
        tracing::error!(after_panic = true, "a request made this server panic; that is a bug, please report it");
        Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).finish()
    });
    response.into()
}

/// A body that tells how much of it came, and when that is all.
struct Counted {
    body: BoxBody<Bytes, io::Error>,
    visit: Arc<Visit>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                self.visit.body_came(frame.data_ref().map_or(0, Bytes::len));
                if self.body.is_end_stream() {
                    self.visit.body_ended();
                }
            }
            Some(Err(_)) | None => self.visit.body_ended(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.visit.body_ended();
    }
}
