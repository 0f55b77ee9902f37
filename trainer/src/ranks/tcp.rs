use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use super::frame::{Frame, Kind, bytes, floats};
use super::{Collective, CollectiveError, Difference};

/// Ranks that are connected over TCP, each with rank 0, which adds and hands on.
///
/// A thread of each process says all the while that it lives: a rank that has to wait long, for dev figures or a checkpoint
/// of rank 0, is not missed. One that is stopped or cut off is after [`TcpConfig::timeout`], one that has ended at once, and
/// one that lives but hangs after [`TcpConfig::patience`]. Rank 0 then tells all others which one it was.
///
/// There is neither encryption nor authentication: the network has to be a trusted one.
pub struct Tcp {
    rank: usize,
    world_size: usize,
    timeout: Duration,
    patience: Duration,
    /// Of rank 0 all others in their order, of the others rank 0 alone.
    peers: Vec<Peer>,
    /// One call at a time.
    turn: Mutex<()>,
    has_failed: AtomicBool,
    alive: Option<(Sender<()>, JoinHandle<()>)>,
}

/// How a rank finds the others.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Which rank this is.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
    /// Host and port where rank 0 listens.
    pub address: String,
    /// What all ranks have to agree on before they begin.
    pub fingerprint: [u8; 16],
    /// How long ranks are waited for at the beginning, and how long one may be silent later.
    pub timeout: Duration,
    /// How long rank 0 waits for one that lives. The others wait for rank 0 twice as long, so that it is the one to say who
    /// hangs; what it does alone, such as dev figures, has to fit into that.
    pub patience: Duration,
}

const MAGIC: [u8; 4] = *b"TRWL";
/// Grows when ranks of two versions would not understand each other.
const PROTOCOL: u32 = 1;
/// Bytes of a greeting: magic, protocol, world size, rank, fingerprint.
const GREETING: usize = 32;
/// How long somebody who connects may take to say who they are, and somebody who leaves to say why.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);
/// How often a rank that is there is looked for when another process says that it is that rank.
const N_LOOKS: usize = 20;
/// How often a rank at most says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// The process at the other end of a connection.
struct Peer {
    rank: usize,
    writer: Arc<Mutex<TcpStream>>,
    frames: Mutex<Receiver<Result<Frame, CollectiveError>>>,
    reader: Option<JoinHandle<()>>,
}

impl Tcp {
    /// Waits for all other ranks as rank 0, or connects with it as another.
    ///
    /// # Errors
    /// [`CollectiveError`]: ranks that do not come or do not belong together, an address that cannot be used.
    pub fn connect(config: &TcpConfig) -> Result<Self, CollectiveError> {
        let deadline = Instant::now() + config.timeout;
        match config.rank {
            0 => Self::host_until(listen(config, deadline)?, config, deadline),
            _ => Self::join(config, deadline),
        }
    }

    /// Waits for all other ranks at an address that is bound already.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn host(listener: TcpListener, config: &TcpConfig) -> Result<Self, CollectiveError> {
        Self::host_until(listener, config, Instant::now() + config.timeout)
    }

    fn host_until(
        listener: TcpListener,
        config: &TcpConfig,
        deadline: Instant,
    ) -> Result<Self, CollectiveError> {
        let refuse = address(config);
        listener.set_nonblocking(true).map_err(&refuse)?;
        let mut joined: Vec<Option<Peer>> = (1..config.world_size).map(|_| None).collect();
        let (mut refused, mut late_since) = (None, None);
        let outcome = loop {
            if joined.iter().all(Option::is_some) {
                break Ok(());
            }
            // This process may have been stopped, too: whoever has connected by then is heard, but nobody who connects on and on.
            let now = Instant::now();
            let is_late = now >= deadline;
            let is_over =
                is_late && now.duration_since(*late_since.get_or_insert(now)) >= GREETING_TIMEOUT;
            let accepted = if is_over {
                Err(ErrorKind::WouldBlock.into())
            } else {
                listener.accept()
            };
            match accepted {
                Ok((mut stream, from)) => match greet(&mut stream, config, &joined) {
                    // Who is gone already can come again.
                    Ok(Some(rank)) => {
                        joined[rank - 1] = Peer::start(rank, stream, config.timeout).ok();
                    }
                    Ok(None) => {}
                    Err(error) => {
                        // Who is gone needs no reason.
                        let _ = Frame::write(&mut stream, Kind::End, error.to_string().as_bytes());
                        if matches!(error, CollectiveError::Repeated { .. }) {
                            break Err(error);
                        }
                        // It may be of another run: the rank that is waited for can still come.
                        tracing::warn!(%from, "refused: {error}");
                        refused = Some(error);
                    }
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock && is_late => {
                    let ranks = (1..).zip(&joined).filter(|(_, joined)| joined.is_none());
                    let absent = CollectiveError::Absent {
                        ranks: ranks.map(|(rank, _)| rank).collect(),
                        timeout: config.timeout,
                    };
                    break Err(refused.unwrap_or(absent));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(RETRY),
                Err(error) => break Err(refuse(error)),
            }
        };
        if let Err(error) = outcome {
            for peer in joined.iter().flatten() {
                let mut writer = lock(&peer.writer);
                // Who is gone needs no reason.
                let _ = Frame::write(&mut *writer, Kind::End, error.to_string().as_bytes());
                let _ = writer.shutdown(Shutdown::Write);
            }
            return Err(error);
        }
        Ok(Self::start(joined.into_iter().flatten().collect(), config))
    }

    fn join(config: &TcpConfig, deadline: Instant) -> Result<Self, CollectiveError> {
        let failed = |error| failure(0, config.timeout, error);
        let stream = introduce(config, deadline, || reach(config, deadline))?;
        let first = Peer::start(0, stream, config.timeout).map_err(failed)?;
        Ok(Self::start(vec![first], config))
    }

    fn start(peers: Vec<Peer>, config: &TcpConfig) -> Self {
        let timeout = config.timeout;
        let writers: Vec<_> = peers.iter().map(|peer| Arc::clone(&peer.writer)).collect();
        let (end, ended) = channel();
        let every = ALIVE_EVERY.min(timeout / 4);
        let alive = spawn(move || {
            // At once, too: who joined first has heard nothing while the last was waited for.
            loop {
                for writer in &writers {
                    // Who is gone is found out by those who wait for it.
                    let _ = Frame::write(&mut *lock(writer), Kind::Alive, &[]);
                }
                if !matches!(ended.recv_timeout(every), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
            }
        });
        Self {
            rank: config.rank,
            world_size: config.world_size,
            timeout,
            patience: config.patience,
            peers,
            turn: Mutex::default(),
            has_failed: AtomicBool::new(false),
            alive: Some((end, alive)),
        }
    }

    /// Takes a turn, and tells the others when it fails.
    fn take<R>(
        &self,
        work: impl FnOnce() -> Result<R, CollectiveError>,
    ) -> Result<R, CollectiveError> {
        let _turn = lock(&self.turn);
        let result = work();
        if let Err(error) = &result {
            self.has_failed.store(true, Ordering::SeqCst);
            if self.is_first() {
                for peer in &self.peers {
                    // Who is gone needs no reason.
                    let _ = peer.send(Kind::End, error.to_string().as_bytes(), self.timeout);
                }
            }
        }
        result
    }

    /// Gives all values to rank 0, which makes one answer of those of all ranks in their order.
    fn exchange(
        &self,
        kind: Kind,
        own: &[f32],
        answer: impl FnOnce(Vec<Vec<f32>>) -> Result<Vec<u8>, CollectiveError>,
    ) -> Result<Vec<u8>, CollectiveError> {
        self.take(|| {
            let patience = self.patience();
            if !self.is_first() {
                let first = &self.peers[0];
                first.send(kind, &bytes(own), self.timeout)?;
                return first.receive(kind, Instant::now(), patience);
            }
            let start = Instant::now();
            let mut all = vec![own.to_vec()];
            for peer in &self.peers {
                let payload = peer.receive(kind, start, patience)?;
                let values = floats(&payload);
                all.push(values.ok_or_else(|| peer.out_of_step(kind, payload.len()))?);
            }
            let answer = answer(all)?;
            for peer in &self.peers {
                peer.send(kind, &answer, self.timeout)?;
            }
            Ok(answer)
        })
    }

    fn patience(&self) -> Duration {
        self.patience * if self.is_first() { 1 } else { 2 }
    }

    fn broken(&self, kind: Kind, n_bytes: usize) -> CollectiveError {
        self.peers[0].out_of_step(kind, n_bytes)
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let sum = |all: Vec<Vec<f32>>| {
            let mut all = all.into_iter();
            let mut sums = all.next().expect("there is rank 0");
            for (others, peer) in all.zip(&self.peers) {
                if others.len() != sums.len() {
                    return Err(peer.out_of_step(Kind::Reduce, 4 * others.len()));
                }
                for (sum, other) in sums.iter_mut().zip(others) {
                    *sum += other;
                }
            }
            Ok(bytes(&sums))
        };
        let answer = self.exchange(Kind::Reduce, values, sum)?;
        match floats(&answer).filter(|sums| sums.len() == values.len()) {
            Some(sums) => values.copy_from_slice(&sums),
            None => return Err(self.broken(Kind::Reduce, answer.len())),
        }
        Ok(())
    }

    fn all_gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        // The lengths, then all values in the order of the ranks.
        let join = |all: Vec<Vec<f32>>| {
            let lengths = all.iter().map(|values| values.len() as u32);
            let mut answer: Vec<u8> = lengths.flat_map(u32::to_le_bytes).collect();
            all.iter().for_each(|values| answer.extend(bytes(values)));
            Ok(answer)
        };
        let answer = self.exchange(Kind::Gather, values, join)?;
        self.cut(&answer)
            .ok_or_else(|| self.broken(Kind::Gather, answer.len()))
    }

    fn broadcast(&self, values: &[f32]) -> Result<Vec<f32>, CollectiveError> {
        let own = if self.is_first() { values } else { &[] };
        let first = |mut all: Vec<Vec<f32>>| Ok(bytes(&all.swap_remove(0)));
        let answer = self.exchange(Kind::Broadcast, own, first)?;
        floats(&answer).ok_or_else(|| self.broken(Kind::Broadcast, answer.len()))
    }
}

impl Tcp {
    /// The values of each rank out of what [`Collective::all_gather`] sends.
    fn cut(&self, answer: &[u8]) -> Option<Vec<Vec<f32>>> {
        let (lengths, mut rest) = answer.split_at_checked(4 * self.world_size)?;
        let mut all = Vec::with_capacity(self.world_size);
        for &length in lengths.as_chunks::<4>().0 {
            let (own, others) = rest.split_at_checked(4 * u32::from_le_bytes(length) as usize)?;
            all.push(floats(own)?);
            rest = others;
        }
        rest.is_empty().then_some(all)
    }
}

impl Drop for Tcp {
    /// Ends the connections when both ends are through, so that nothing that was sent is lost; soon after a failure.
    fn drop(&mut self) {
        if let Some((end, alive)) = self.alive.take() {
            drop(end);
            let _ = alive.join();
        }
        let has_failed = self.has_failed.load(Ordering::SeqCst) || std::thread::panicking();
        let patience = if has_failed {
            GREETING_TIMEOUT
        } else {
            self.patience()
        };
        for peer in &self.peers {
            let _ = lock(&peer.writer).shutdown(Shutdown::Write);
        }
        let start = Instant::now();
        for peer in &mut self.peers {
            while let Ok(Ok(_)) = peer.next(start, patience) {}
            let _ = lock(&peer.writer).shutdown(Shutdown::Both);
            if let Some(reader) = peer.reader.take() {
                let _ = reader.join();
            }
        }
    }
}

impl Peer {
    fn start(rank: usize, stream: TcpStream, timeout: Duration) -> std::io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let (sender, frames) = channel();
        let reader = spawn(move || {
            loop {
                let frame = Frame::read(&mut reader);
                let frame = frame.map_err(|error| failure(rank, timeout, error));
                let is_last = frame.is_err();
                if matches!(&frame, Ok(frame) if frame.kind == Kind::Alive) {
                    continue;
                }
                // Nobody may wait any more; the end is waited for all the same.
                let _ = sender.send(frame);
                if is_last {
                    return;
                }
            }
        });
        Ok(Self {
            rank,
            writer: Arc::new(Mutex::new(stream)),
            frames: Mutex::new(frames),
            reader: Some(reader),
        })
    }

    /// Whether its connection has ended; that it has may take a moment to be known.
    fn is_gone(&self) -> bool {
        let is_ended = || self.reader.as_ref().is_none_or(JoinHandle::is_finished);
        for _ in 0..N_LOOKS {
            if is_ended() {
                return true;
            }
            sleep(RETRY);
        }
        is_ended()
    }

    fn send(&self, kind: Kind, payload: &[u8], timeout: Duration) -> Result<(), CollectiveError> {
        Frame::write(&mut *lock(&self.writer), kind, payload).map_err(|error| {
            // Rank 0 may have said why it left.
            match lock(&self.frames).recv_timeout(GREETING_TIMEOUT) {
                Ok(Ok(frame)) if frame.kind == Kind::End => ended(&frame),
                _ => failure(self.rank, timeout, error),
            }
        })
    }

    /// The next frame that says anything.
    fn next(
        &self,
        start: Instant,
        patience: Duration,
    ) -> Result<Result<Frame, CollectiveError>, RecvTimeoutError> {
        lock(&self.frames).recv_timeout(patience.saturating_sub(start.elapsed()))
    }

    fn receive(
        &self,
        kind: Kind,
        start: Instant,
        patience: Duration,
    ) -> Result<Vec<u8>, CollectiveError> {
        let rank = self.rank;
        let frame = self.next(start, patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => CollectiveError::Stuck { rank, patience },
            RecvTimeoutError::Disconnected => CollectiveError::Gone { rank },
        })??;
        match frame.kind {
            Kind::End => Err(ended(&frame)),
            found if found == kind => Ok(frame.payload),
            found => Err(CollectiveError::OutOfStep {
                rank,
                expected: format!("{kind:?}").to_lowercase(),
                found: format!("{found:?}").to_lowercase(),
            }),
        }
    }

    fn out_of_step(&self, kind: Kind, n_bytes: usize) -> CollectiveError {
        CollectiveError::OutOfStep {
            rank: self.rank,
            expected: format!("{kind:?} of as many values").to_lowercase(),
            found: format!("{n_bytes} bytes"),
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended(frame: &Frame) -> CollectiveError {
    CollectiveError::Ended {
        reason: String::from_utf8_lossy(&frame.payload).into_owned(),
    }
}

fn address(config: &TcpConfig) -> impl Fn(std::io::Error) -> CollectiveError {
    let address = config.address.clone();
    move |source| CollectiveError::Address {
        address: address.clone(),
        source,
    }
}

/// What an error of a connection says of the rank at its other end.
fn failure(rank: usize, timeout: Duration, source: std::io::Error) -> CollectiveError {
    match source.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe => CollectiveError::Gone { rank },
        ErrorKind::WouldBlock | ErrorKind::TimedOut => CollectiveError::Silent { rank, timeout },
        _ => CollectiveError::Connection { rank, source },
    }
}

/// Binds the address of rank 0; a run that is being ended may still hold it.
fn listen(config: &TcpConfig, deadline: Instant) -> Result<TcpListener, CollectiveError> {
    loop {
        match TcpListener::bind(&config.address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(RETRY);
            }
            outcome => return outcome.map_err(address(config)),
        }
    }
}

/// Connects with rank 0, which may not listen yet.
fn reach(config: &TcpConfig, deadline: Instant) -> Result<TcpStream, CollectiveError> {
    loop {
        match TcpStream::connect(&config.address) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return match error.kind() {
                    ErrorKind::ConnectionRefused | ErrorKind::TimedOut => {
                        Err(CollectiveError::Absent {
                            ranks: vec![0],
                            timeout: config.timeout,
                        })
                    }
                    _ => Err(address(config)(error)),
                };
            }
            Err(_) => sleep(RETRY),
        }
    }
}

/// Says who this is over a connection with rank 0. A process that was stopped after it had connected may come too late for
/// that: then it tries again.
fn introduce(
    config: &TcpConfig,
    deadline: Instant,
    mut connect: impl FnMut() -> Result<TcpStream, CollectiveError>,
) -> Result<TcpStream, CollectiveError> {
    let mut greeting = Vec::with_capacity(GREETING);
    greeting.extend(MAGIC);
    for number in [PROTOCOL, config.world_size as u32, config.rank as u32] {
        greeting.extend(number.to_le_bytes());
    }
    greeting.extend(config.fingerprint);
    loop {
        let mut stream = connect()?;
        let sent = stream.write_all(&greeting);
        match sent.and_then(|()| check_open(&stream)) {
            Ok(()) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(failure(0, config.timeout, error));
            }
            Err(_) => sleep(RETRY),
        }
    }
}

/// An error where the other end has closed the connection and said nothing.
fn check_open(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let outcome = match stream.peek(&mut [0]) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    };
    stream.set_nonblocking(false)?;
    outcome
}

/// Learns who has connected; none for somebody who speaks something else.
fn greet(
    stream: &mut TcpStream,
    config: &TcpConfig,
    joined: &[Option<Peer>],
) -> Result<Option<usize>, CollectiveError> {
    let Ok(greeting) = read_greeting(stream, GREETING_TIMEOUT) else {
        return Ok(None);
    };
    if greeting[..4] != MAGIC {
        return Ok(None);
    }
    let number = |place: usize| {
        let bytes = &greeting[place..place + 4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    };
    let rank = number(12) as usize;
    let differences = [
        (number(4) == PROTOCOL, Difference::Protocol),
        (
            number(8) as usize == config.world_size,
            Difference::WorldSize,
        ),
        (
            greeting[16..] == config.fingerprint,
            Difference::Fingerprint,
        ),
    ];
    let different = differences.iter().find(|(is_equal, _)| !is_equal);
    if let Some(&(_, what)) = different {
        return Err(CollectiveError::Different { rank, what });
    }
    match joined.get(rank.wrapping_sub(1)) {
        Some(None) => Ok(Some(rank)),
        // Its launcher has started it again.
        Some(Some(peer)) if peer.is_gone() => Ok(Some(rank)),
        None if rank != 0 => Err(CollectiveError::NoRank {
            rank,
            world_size: config.world_size,
        }),
        _ => Err(CollectiveError::Repeated { rank }),
    }
}

/// Reads a greeting, for which there is as much time however its bytes come.
fn read_greeting(stream: &mut TcpStream, within: Duration) -> std::io::Result<[u8; GREETING]> {
    let deadline = Instant::now() + within;
    stream.set_nonblocking(false)?;
    let (mut greeting, mut n_read) = ([0; GREETING], 0);
    while n_read < GREETING {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut greeting[n_read..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => n_read += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(greeting)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ranks that meet where somebody listens.
    fn ranks(listener: &TcpListener) -> [TcpConfig; 2] {
        let address = listener.local_addr().expect("it is bound").to_string();
        [0, 1].map(|rank| TcpConfig {
            rank,
            world_size: 2,
            address: address.clone(),
            fingerprint: [0; 16],
            timeout: Duration::from_secs(60),
            patience: Duration::from_secs(60),
        })
    }

    #[test]
    fn who_has_connected_in_time_is_heard_when_it_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let [host, guest] = ranks(&listener);
        let guest = Tcp::connect(&guest).expect("it listens");
        let host = Tcp::host_until(listener, &host, Instant::now()).expect("rank 1 is there");
        // Each waits for the other.
        let leaving = spawn(move || drop(guest));
        drop(host);
        leaving.join().expect("it ends");
    }

    #[test]
    fn who_was_given_up_before_the_greeting_tries_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let [host, guest] = ranks(&listener);
        let deadline = Instant::now() + guest.timeout;
        let mut n_given_up = 0;
        let connect = || -> Result<TcpStream, CollectiveError> {
            let stream = reach(&guest, deadline)?;
            if n_given_up < 2 {
                n_given_up += 1;
                drop(listener.accept().expect("it has connected"));
                // As a process finds it that goes on after it was stopped.
                assert_eq!(stream.peek(&mut [0]).expect("it is closed"), 0);
            }
            Ok(stream)
        };
        let stream = introduce(&guest, deadline, connect).expect("it listens");
        assert_eq!(n_given_up, 2);
        let joined = Tcp::host(listener, &host).expect("rank 1 is there");
        drop(stream);
        drop(joined);
    }

    #[test]
    fn who_connects_on_and_on_and_says_nothing_does_not_hold_the_end_up() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let [host, _] = ranks(&listener);
        let (end, ended) = channel::<()>();
        let mut silent = vec![TcpStream::connect(address).expect("it listens")];
        let connecting = spawn(move || {
            while ended.recv_timeout(10 * RETRY) == Err(RecvTimeoutError::Timeout) {
                silent.extend(TcpStream::connect(address));
            }
        });
        let error = Tcp::host_until(listener, &host, Instant::now()).err();
        drop(end);
        connecting.join().expect("it ends");
        assert!(matches!(error, Some(CollectiveError::Absent { .. })));
    }

    #[test]
    fn a_greeting_that_comes_byte_by_byte_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let is_waited_for = || {
            let dripping = spawn(move || {
                let mut stream = TcpStream::connect(address).expect("it listens");
                // Until nobody reads any more.
                while stream.write_all(&[0]).is_ok() {
                    sleep(RETRY);
                }
            });
            let (mut stream, _) = listener.accept().expect("somebody connects");
            let greeting = read_greeting(&mut stream, 4 * RETRY);
            drop(stream);
            dripping.join().expect("it ends");
            greeting.is_ok()
        };
        // A thread that was stopped before it reads finds all of it.
        assert!((0..5).any(|_| !is_waited_for()));
    }
}
