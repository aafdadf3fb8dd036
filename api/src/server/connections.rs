//! All connections, and which of them give way: to a new one, to memory, to time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::{Metrics, labels::RefusedConnection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bounds of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that may be open at once.
    pub connections: usize,
    /// For the head of a request, from its first byte to its last; and for the handshake of TLS.
    pub head: Duration,
    /// For the client to take an answer.
    pub answer: Duration,
    /// A connection on which nothing happens for so long is closed.
    pub idle: Duration,
    /// What the bodies of all requests may take together, in bytes.
    pub bodies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            // Longer than the minute that proxies keep one.
            idle: Duration::from_secs(75),
            bodies: 64 << 20,
        }
    }
}

/// How exactly bounds in time are kept.
const SWEEP: Duration = Duration::from_millis(250);

/// Of how many connections one gives way when there is no room: looking for it costs a look at all of them, which is shared so.
const SHARE: usize = 64;

/// Whoever has had an answer on a connection is taken to have waited so much less than somebody who never has: a crowd of strangers does not push
/// out connections that are in use.
const KNOWN: Duration = Duration::from_secs(5);

/// Every connection of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    limits: Limits,
    metrics: Arc<Metrics>,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Seat>>>,
    /// Bytes of bodies that are held, those of connections that are told to go not counted.
    held: AtomicUsize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { limits, metrics, next: AtomicU64::new(0), open: Mutex::default(), held: AtomicUsize::new(0) }
    }

    /// A seat for one more connection: where all are taken, that of the one that has waited the longest. None where each is being worked for.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seated> {
        if locked(&self.open).len() >= self.limits.connections && self.make_room(RefusedConnection::GaveWay) == 0 {
            self.metrics.connection_refused(RefusedConnection::Full);
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat { state: Mutex::new(State::new()), end: CancellationToken::new() });
        locked(&self.open).insert(id, Arc::clone(&seat));
        self.metrics.connection_opened();
        Some(Seated { id, seat, of: Arc::clone(self) })
    }

    /// Ends the connections that have waited the longest for their clients; tells how many.
    pub(super) fn make_room(&self, reason: RefusedConnection) -> usize {
        let mut open = locked(&self.open);
        let wanted = (open.len() / SHARE).max(1);
        let mut waiting: Vec<_> = open.iter().filter_map(|(id, seat)| Some((seat.waiting_since()?, *id))).collect();
        if waiting.len() > wanted {
            waiting.select_nth_unstable(wanted - 1);
            waiting.truncate(wanted);
        }
        for (_, id) in &waiting {
            if let Some(seat) = open.remove(id) {
                self.end(&seat, reason);
            }
        }
        waiting.len()
    }

    fn end(&self, seat: &Seat, reason: RefusedConnection) {
        self.metrics.connection_refused(reason);
        self.held.fetch_sub(seat.end(), Ordering::Relaxed);
    }

    /// So many bytes of a body came in. Where that is too much for all, those go whose bodies have come in the longest.
    fn hold(&self, seat: &Seat, bytes: usize) {
        if !seat.hold(bytes) {
            return;
        }
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held <= self.limits.bodies {
            return;
        }
        let mut excess = held - self.limits.bodies;
        let mut open = locked(&self.open);
        let mut reading: Vec<_> = open.iter().filter_map(|(id, seat)| Some((seat.reading_since()?, *id))).collect();
        reading.sort_unstable();
        for (_, id) in reading {
            let Some(seat) = open.remove(&id) else { continue };
            excess = excess.saturating_sub(locked(&seat.state).held);
            self.end(&seat, RefusedConnection::NoMemory);
            if excess == 0 {
                return;
            }
        }
    }

    /// Ends what is over its time, for ever.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(Instant::now());
        }
    }

    fn look(&self, now: Instant) {
        let mut open = locked(&self.open);
        let over: Vec<_> = open.iter().filter_map(|(id, seat)| Some((*id, seat.over(now, &self.limits)?))).collect();
        for (id, over) in over {
            let Some(seat) = open.remove(&id) else { continue };
            match over {
                Over::Idle => drop(seat.end()),
                Over::Slow(reason) => self.end(&seat, reason),
            }
        }
    }
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Seated {
    id: u64,
    seat: Arc<Seat>,
    of: Arc<Connections>,
}

impl Seated {
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// The handshake failed.
    pub(super) fn no_handshake(&self) {
        self.of.metrics.connection_refused(RefusedConnection::Handshake);
    }

    /// A request's head is here.
    pub(super) fn request(&self, has_body: bool) -> Visit {
        self.seat.request_began(has_body);
        Visit { seat: Arc::clone(&self.seat), of: Arc::clone(&self.of), step: Mutex::new((has_body, 0)) }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        locked(&self.of.open).remove(&self.id);
        self.of.held.fetch_sub(self.seat.end(), Ordering::Relaxed);
        self.of.metrics.connection_closed();
    }
}

/// One request, until it is answered.
#[derive(Debug)]
pub(super) struct Visit {
    seat: Arc<Seat>,
    of: Arc<Connections>,
    /// Whether its body is still coming in, and how much of it is held.
    step: Mutex<(bool, usize)>,
}

impl Visit {
    /// So many bytes of the body came in.
    pub(super) fn body_came(&self, bytes: usize) {
        locked(&self.step).1 += bytes;
        self.of.hold(&self.seat, bytes);
    }

    /// The body is here, or nobody wants it.
    pub(super) fn body_ended(&self) {
        if std::mem::take(&mut locked(&self.step).0) {
            self.seat.body_ended();
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.body_ended();
        let bytes = locked(&self.step).1;
        self.of.held.fetch_sub(self.seat.request_ended(bytes), Ordering::Relaxed);
    }
}

/// What one connection does.
#[derive(Debug)]
pub(super) struct Seat {
    state: Mutex<State>,
    end: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// When something was last complete: the connection, a request's head, an answer.
    since: Instant,
    handshake: bool,
    http2: bool,
    /// When the head that is not complete yet began.
    head: Option<Instant>,
    /// Since when the client has to take something.
    write: Option<Instant>,
    /// Requests whose bodies are coming in.
    reading: usize,
    /// Requests that are being worked for.
    working: usize,
    /// Whether there ever was an answer.
    answered: bool,
    /// Bytes of bodies.
    held: usize,
    ended: bool,
}

impl State {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            handshake: false,
            http2: false,
            head: None,
            write: None,
            reading: 0,
            working: 0,
            answered: false,
            held: 0,
            ended: false,
        }
    }
}

/// Why a connection has to end.
enum Over {
    Idle,
    Slow(RefusedConnection),
}

impl Seat {
    /// Returns once the connection is to end at once.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    pub(super) fn handshake(&self, under_way: bool) {
        let mut state = locked(&self.state);
        state.handshake = under_way;
        state.head = under_way.then(Instant::now);
    }

    pub(super) fn is_http2(&self) {
        locked(&self.state).http2 = true;
    }

    pub(super) fn bytes_came(&self) {
        let mut state = locked(&self.state);
        // HTTP/2 sends more than heads; a connection that brings no whole one is idle.
        if state.reading + state.working == 0 && !state.http2 && state.head.is_none() {
            state.head = Some(Instant::now());
        }
    }

    pub(super) fn cannot_write(&self) {
        let mut state = locked(&self.state);
        if state.write.is_none() {
            state.write = Some(Instant::now());
        }
    }

    pub(super) fn all_written(&self) {
        locked(&self.state).write = None;
    }

    fn request_began(&self, has_body: bool) {
        let mut state = locked(&self.state);
        state.head = None;
        state.since = Instant::now();
        if has_body {
            state.reading += 1;
        } else {
            state.working += 1;
        }
    }

    fn body_ended(&self) {
        let mut state = locked(&self.state);
        state.reading -= 1;
        state.working += 1;
    }

    /// How many bytes of bodies are free now.
    fn request_ended(&self, bytes: usize) -> usize {
        let mut state = locked(&self.state);
        state.working -= 1;
        state.answered = true;
        state.since = Instant::now();
        let freed = bytes.min(state.held);
        state.held -= freed;
        freed
    }

    /// False where the connection is to end anyway.
    fn hold(&self, bytes: usize) -> bool {
        let mut state = locked(&self.state);
        if !state.ended {
            state.held += bytes;
        }
        !state.ended
    }

    /// Ends the connection, and tells how many bytes of bodies that frees.
    fn end(&self) -> usize {
        let mut state = locked(&self.state);
        state.ended = true;
        self.end.cancel();
        std::mem::take(&mut state.held)
    }

    /// Since when the client is taken to be waited for; none while anything is being worked for.
    fn waiting_since(&self) -> Option<Instant> {
        let state = locked(&self.state);
        let since = if state.answered { state.since + KNOWN } else { state.since };
        (state.working == 0).then_some(since)
    }

    /// Since when a body is coming in; none while anything is being worked for.
    fn reading_since(&self) -> Option<Instant> {
        let state = locked(&self.state);
        (state.working == 0 && state.reading > 0).then_some(state.since)
    }

    fn over(&self, now: Instant, limits: &Limits) -> Option<Over> {
        let state = locked(&self.state);
        let longer = |since: Option<Instant>, than| since.is_some_and(|since| now.duration_since(since) >= than);
        if longer(state.head, limits.head) {
            let reason = if state.handshake { RefusedConnection::Handshake } else { RefusedConnection::SlowHead };
            Some(Over::Slow(reason))
        } else if longer(state.write, limits.answer) {
            Some(Over::Slow(RefusedConnection::SlowReader))
        } else if state.reading + state.working == 0 && longer(Some(state.since), limits.idle) {
            Some(Over::Idle)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(limits: Limits) -> Arc<Connections> {
        Arc::new(Connections::new(limits, Arc::new(Metrics::new("test", []))))
    }

    fn refused(connections: &Connections, reason: &str) -> bool {
        let line = format!("trueup_http_connections_refused_total{{reason=\"{reason}\"}} 0");
        !connections.metrics.render().contains(&line)
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_connection_that_has_waited_the_longest_gives_way() {
        let connections = connections(Limits { connections: 3, ..Limits::default() });
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.push(connections.seat().expect("there is room"));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // The oldest is being worked for, and the second has just done something.
        let work = seats[0].request(false);
        drop(seats[1].request(false));
        let new = connections.seat().expect("one gives way");
        let told: Vec<_> = seats.iter().map(|seat| seat.seat.end.is_cancelled()).collect();
        assert_eq!(told, [false, false, true]);
        assert!(refused(&connections, "gave-way") && !refused(&connections, "full"));
        // Strangers who have come since do not push out who has just had an answer.
        tokio::time::advance(KNOWN / 2).await;
        let stranger = connections.seat().expect("one gives way");
        assert!(new.seat.end.is_cancelled() && !seats[1].seat.end.is_cancelled());
        let busy = [&seats[1], &stranger].map(|seat| seat.request(false));
        assert!(connections.seat().is_none(), "each is being worked for");
        assert!(refused(&connections, "full"));
        drop((work, busy, seats, new, stranger));
        assert!(connections.metrics.render().contains("trueup_http_connections 0"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_an_answer_and_a_quiet_connection_have_their_time_and_a_busy_one_has_all_it_needs() {
        let limits = Limits::default();
        let connections = connections(limits);
        let [head, answer, quiet, busy, two] = [(); 5].map(|()| connections.seat().expect("there is room"));
        head.seat.bytes_came();
        answer.seat.cannot_write();
        two.seat.is_http2();
        two.seat.bytes_came();
        let _work = busy.request(false);
        let over = |seat: &Seated| seat.seat.end.is_cancelled();
        let mut after = Duration::ZERO;
        for (until, gone) in [
            (limits.head - SWEEP, [false; 5]),
            (limits.head, [true, false, false, false, false]),
            (limits.answer, [true, true, false, false, false]),
            (limits.idle, [true, true, true, false, true]),
            (limits.idle * 10, [true, true, true, false, true]),
        ] {
            tokio::time::advance(until - after).await;
            after = until;
            // One byte a second makes no head.
            head.seat.bytes_came();
            connections.look(Instant::now());
            assert_eq!([&head, &answer, &quiet, &busy, &two].map(over), gone, "after {until:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_beyond_the_memory_cost_those_that_have_come_in_the_longest() {
        let connections = connections(Limits { bodies: 100, ..Limits::default() });
        let [slow, later, done] = [(); 3].map(|()| connections.seat().expect("there is room"));
        let visits = [&slow, &later, &done].map(|seat| seat.request(true));
        visits[0].body_came(40);
        visits[1].body_came(30);
        visits[2].body_came(30);
        visits[2].body_ended();
        tokio::time::advance(Duration::from_secs(1)).await;
        visits[1].body_came(20);
        assert_eq!([&slow, &later, &done].map(|seat| seat.seat.end.is_cancelled()), [true, false, false]);
        assert!(refused(&connections, "no-memory"));
        assert_eq!(connections.held.load(Ordering::Relaxed), 80);
        drop(visits);
        assert_eq!(connections.held.load(Ordering::Relaxed), 0, "whatever is answered, or cut, is free again");
    }
}
