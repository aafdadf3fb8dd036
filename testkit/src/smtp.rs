//! A mail server for one test, on a free port of this machine: it takes everything, unless its script says otherwise.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, watch},
    task::AbortHandle,
};

/// Where a dialogue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A connection was opened.
    Greeting,
    /// The sender was named.
    Sender,
    /// The recipient was named.
    Recipient(&'a str),
    /// The whole letter is there, for this recipient.
    Letter(&'a str),
}

/// What the server does.
#[derive(Debug, Clone)]
pub enum Answer {
    /// What a server does that has nothing against it.
    Take,
    /// Says this line instead; of a letter it keeps nothing.
    Say(&'static str),
    /// Says nothing any more.
    Hang,
    /// Ends the connection; of a letter it keeps nothing.
    Close,
    /// Keeps the letter and ends the connection without an answer.
    TakeAndClose,
    /// Takes one of these, however long that lasts, and goes on.
    Hold(Arc<Semaphore>),
}

type Script = Arc<dyn Fn(Step<'_>) -> Answer + Send + Sync>;

/// A letter the server took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// From the envelope.
    pub to: String,
    /// Headers and body, as they came.
    pub text: String,
}

impl Letter {
    /// The value of a header, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.text.split("\r\n\r\n").next()?.replace("\r\n ", " ");
        head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    }
}

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    letters: watch::Sender<Vec<Letter>>,
    connections: AtomicUsize,
    script: Mutex<Script>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl SmtpServer {
    /// A server that takes everything.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    /// A server on an address that is known already.
    pub async fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port of this machine is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            letters: watch::Sender::default(),
            connections: AtomicUsize::new(0),
            script: Mutex::new(Arc::new(|_| Answer::Take)),
        });
        let own = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                own.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(talk(stream, Arc::clone(&own)));
            }
        });
        Self { address, shared, accepting: accepting.abort_handle() }
    }

    /// An address where nothing listens.
    pub async fn nowhere() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of this machine is free");
        listener.local_addr().expect("a bound socket has an address").to_string()
    }

    /// What it does from now on.
    pub fn script(&self, script: impl Fn(Step<'_>) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no script panics") = Arc::new(script);
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Every letter it took, in order.
    pub fn letters(&self) -> Vec<Letter> {
        self.shared.letters.borrow().clone()
    }

    /// Waits until it has taken so many letters.
    pub async fn took(&self, letters: usize) {
        let mut seen = self.shared.letters.subscribe();
        seen.wait_for(|taken| taken.len() >= letters).await.expect("the server lives as long as this");
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection.
struct Dialogue {
    reading: Lines<BufReader<OwnedReadHalf>>,
    writing: OwnedWriteHalf,
    shared: Arc<Shared>,
}

async fn talk(stream: TcpStream, shared: Arc<Shared>) {
    let (reading, writing) = stream.into_split();
    let mut dialogue = Dialogue { reading: BufReader::new(reading).lines(), writing, shared };
    // Whoever is at the other end may leave at any moment.
    let _ = dialogue.lead().await;
}

impl Dialogue {
    /// None where the connection is to end.
    async fn lead(&mut self) -> Option<()> {
        self.act(Step::Greeting, "220 test ESMTP", None).await?;
        let mut recipient = String::new();
        loop {
            let line = self.reading.next_line().await.ok()??;
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "MAIL" => self.act(Step::Sender, "250 sender ok", None).await?,
                "RCPT" => {
                    recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    self.act(Step::Recipient(&recipient), "250 recipient ok", None).await?;
                }
                "DATA" => {
                    self.say("354 go on").await?;
                    let text = self.read_letter().await?;
                    let letter = Letter { to: recipient.clone(), text };
                    self.act(Step::Letter(&recipient), "250 taken", Some(letter)).await?;
                }
                "EHLO" => self.say("250-ok\r\n250 AUTH PLAIN").await?,
                "AUTH" => self.say("235 welcome").await?,
                "NOOP" | "RSET" => self.say("250 ok").await?,
                "QUIT" => {
                    self.say("221 bye").await?;
                    return None;
                }
                _ => self.say("502 not here").await?,
            }
        }
    }

    async fn read_letter(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let line = self.reading.next_line().await.ok()??;
            if line == "." {
                return Some(text);
            }
            text.push_str(line.strip_prefix('.').unwrap_or(&line));
            text.push_str("\r\n");
        }
    }

    async fn act(&mut self, step: Step<'_>, usual: &str, letter: Option<Letter>) -> Option<()> {
        let script = Arc::clone(&self.shared.script.lock().expect("no script panics"));
        let answer = script(step);
        if matches!(answer, Answer::Take | Answer::TakeAndClose | Answer::Hold(_)) {
            self.shared.letters.send_modify(|letters| letters.extend(letter));
        }
        match answer {
            Answer::Take => self.say(usual).await,
            Answer::Say(line) => self.say(line).await,
            Answer::Hang => std::future::pending().await,
            Answer::Close | Answer::TakeAndClose => None,
            Answer::Hold(permits) => {
                permits.acquire().await.expect("nobody closes it").forget();
                self.say(usual).await
            }
        }
    }

    async fn say(&mut self, line: &str) -> Option<()> {
        self.writing.write_all(format!("{line}\r\n").as_bytes()).await.ok()
    }
}
