//! As much of HTTP/1.1 as a load generator needs: one request at a time on a connection that stays open.

use std::{fmt, io, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// No answer for so long is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest answer that is read.
const LONGEST: usize = 1 << 20;

/// Where requests go: `http://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// With its port.
    pub(crate) host: String,
    /// With its slash.
    pub(crate) path: String,
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let rest = url.strip_prefix("http://").ok_or("plain http:// only")?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        if host.is_empty() || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("not an address like http://127.0.0.1:8000/path");
        }
        let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        Ok(Self { host, path: path.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

/// What is read of an answer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of head and body together.
    total: usize,
    /// The server hangs up after this answer.
    close: bool,
}

/// `None` as long as the head is not complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status: u16 = status.ok_or("no status line of HTTP/1.1")?;
    let (mut length, mut close) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse::<usize>().map_err(|_| "a Content-Length that is no number")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("a Transfer-Encoding, which is not understood here");
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.eq_ignore_ascii_case("close");
        }
    }
    let length = length.or((status == 204).then_some(0)).ok_or("no Content-Length")?;
    if length > LONGEST {
        return Err("an answer of more than a megabyte");
    }
    Ok(Some(Head { status, total: end + 4 + length, close }))
}

/// A connection that stays open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(target: &Target) -> io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(&target.host)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096), closed: false })
    }

    /// Sends a request and returns the status of its answer, which has been read to its end.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        timeout(PATIENCE, async {
            self.stream.write_all(request).await?;
            self.buffer.clear();
            loop {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let head = parse_head(&self.buffer).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
                if let Some(head) = head
                    && self.buffer.len() >= head.total
                {
                    self.closed = head.close;
                    return Ok(head.status);
                }
            }
        })
        .await?
    }

    /// True where the server said that it hangs up.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }
}

/// Waits until a GET of `target` answers 200.
pub(crate) async fn wait(target: &Target, at_most: Duration) -> Result<()> {
    let until = Instant::now() + at_most;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.path, target.host);
    loop {
        let answer = async { Connection::open(target).await?.exchange(request.as_bytes()).await };
        let last = match answer.await {
            Ok(200) => return Ok(()),
            Ok(status) => Ok(status),
            Err(error) => Err(error),
        };
        if Instant::now() >= until {
            let status = last.with_context(|| format!("{target} does not answer"))?;
            bail!("{target} answers {status}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_path() {
        let parts = |url: &str| url.parse::<Target>().map(|target| (target.host, target.path));
        assert_eq!(parts("http://a:1/b/c"), Ok(("a:1".into(), "/b/c".into())));
        assert_eq!(parts("http://a"), Ok(("a:80".into(), "/".into())));
        assert!(parts("https://a/b").is_err());
        assert!(parts("http:///b").is_err());
        assert!(parts("http://a/b\r\nX: y").is_err());
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX: y\r\n\r\n{}";
        let head = parse_head(answer).unwrap().unwrap();
        assert_eq!(head, Head { status: 200, total: answer.len(), close: false });
        assert_eq!(parse_head(&answer[..answer.len() - 3]), Ok(None));
        let close = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(parse_head(close), Ok(Some(Head { status: 503, total: close.len(), close: true })));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
    }
}
