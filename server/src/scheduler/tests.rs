use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::queue::Dropped;
use super::*;
use crate::problem::ApiError;

fn config() -> QueueConfig {
    QueueConfig {
        max_tokens: 1000,
        max_batch_tokens: 100,
        max_wait: Duration::MAX,
        interactive_share: 0.8,
    }
}

/// A row whose tokens all are `id`.
fn row(id: u32, n_tokens: usize) -> Tokens {
    Tokens {
        ids: vec![id; n_tokens],
        type_ids: vec![0; n_tokens],
        ..Tokens::default()
    }
}

fn ids(batch: &Batch) -> Vec<u32> {
    batch.rows.iter().map(|row| row.ids[0]).collect()
}

/// A value that says which row it was made of.
fn value(row: &Tokens) -> f32 {
    row.ids[0] as f32 + row.len() as f32 / 1000.0
}

fn complete(queue: &mut Queue, batch: &Batch) {
    let values: Vec<f32> = batch.rows.iter().map(value).collect();
    let mut rest = values.as_slice();
    for part in &batch.parts {
        let (values, after) = rest.split_at(part.n_rows);
        queue.complete(part, values, Duration::from_millis(1));
        rest = after;
    }
    assert!(rest.is_empty());
}

fn values(answered: &mut Receiver<Result<Answer, ModelError>>) -> Vec<f32> {
    answered.try_recv().unwrap().unwrap().values
}

#[test]
fn interactive_goes_first_and_order_is_kept() {
    let (mut queue, now) = (Queue::new(config()), Instant::now());
    let mut push = |id, class| {
        queue
            .push(vec![row(id, 40)], class, Deadline::NONE, now)
            .unwrap()
    };
    let _answers = [
        push(1, Class::Bulk),
        push(2, Class::Interactive),
        push(3, Class::Interactive),
        push(4, Class::Interactive),
    ];
    assert_eq!(ids(&queue.take_batch(now).unwrap()), [2, 3]);
    assert_eq!(ids(&queue.take_batch(now).unwrap()), [4, 1]);
    assert!(queue.take_batch(now).is_none());
}

#[test]
fn a_request_over_several_batches_is_answered_once_and_in_order() {
    let (mut queue, now) = (Queue::new(config()), Instant::now());
    let rows: Vec<Tokens> = (0..10).map(|id| row(id, 30)).collect();
    let expected: Vec<f32> = rows.iter().map(value).collect();
    let mut answered = queue.push(rows, Class::Bulk, Deadline::NONE, now).unwrap();
    let mut n_batches = 0;
    while let Some(batch) = queue.take_batch(now) {
        assert!(matches!(answered.try_recv(), Err(TryRecvError::Empty)));
        complete(&mut queue, &batch);
        n_batches += 1;
    }
    assert_eq!(n_batches, 4);
    let answer = answered.try_recv().unwrap().unwrap();
    assert_eq!(answer.values, expected);
    assert_eq!(answer.compute, Duration::from_millis(4));
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let (mut queue, now) = (Queue::new(config()), Instant::now());
    let mut push = |n_rows, n_tokens| {
        let rows: Vec<Tokens> = (0..n_rows).map(|id| row(id, n_tokens)).collect();
        queue.push(rows, Class::Bulk, Deadline::NONE, now)
    };
    assert_eq!(
        push(11, 100).err(),
        Some(Refusal::TooLarge {
            given: 1100,
            limit: 1000
        })
    );
    assert_eq!(
        push(1, 101).err(),
        Some(Refusal::TooLarge {
            given: 101,
            limit: 100
        })
    );
    let _first = push(9, 100).unwrap();
    assert_eq!(
        push(2, 51).err(),
        Some(Refusal::Full {
            held: 900,
            limit: 1000
        })
    );
    assert!(push(2, 50).is_ok());
}

#[test]
fn requests_given_up_make_room() {
    let (mut queue, now) = (Queue::new(config()), Instant::now());
    let soon = now + Duration::from_millis(5);
    let full = |id| -> Vec<Tokens> { (0..10).map(|_| row(id, 50)).collect() };
    drop(
        queue
            .push(full(1), Class::Bulk, Deadline::NONE, now)
            .unwrap(),
    );
    let mut expiring = queue
        .push(full(2), Class::Bulk, Deadline::at(soon), now)
        .unwrap();
    let mut answered = queue
        .push(full(3), Class::Bulk, Deadline::NONE, soon)
        .unwrap();
    assert!(matches!(
        expiring.try_recv(),
        Ok(Err(ModelError::DeadlineExceeded))
    ));
    assert_eq!(
        queue.take_dropped(),
        Dropped {
            expired: 1,
            cancelled: 1,
            late: 0,
        }
    );
    while let Some(batch) = queue.take_batch(soon) {
        assert!(ids(&batch).iter().all(|&id| id == 3));
        complete(&mut queue, &batch);
    }
    assert_eq!(values(&mut answered).len(), 10);
}

#[test]
fn an_interactive_flood_leaves_bulk_its_share() {
    let (mut queue, now) = (
        Queue::new(QueueConfig {
            max_tokens: 1_000_000,
            ..config()
        }),
        Instant::now(),
    );
    let bulk: Vec<Tokens> = (0..20).map(|_| row(0, 90)).collect();
    let mut bulk = queue.push(bulk, Class::Bulk, Deadline::NONE, now).unwrap();
    let (mut flood, mut n_batches, mut n_bulk_tokens) = (Vec::new(), 0, 0);
    while bulk.try_recv().is_err() {
        for _ in 0..4 {
            let rows = vec![row(1, 50)];
            flood.push(
                queue
                    .push(rows, Class::Interactive, Deadline::NONE, now)
                    .unwrap(),
            );
        }
        let batch = queue.take_batch(now).unwrap();
        n_bulk_tokens += batch
            .rows
            .iter()
            .filter(|row| row.ids[0] == 0)
            .map(Tokens::len)
            .sum::<usize>();
        complete(&mut queue, &batch);
        n_batches += 1;
    }
    // A share of 20 of each 100 tokens carries 20 rows of 90 tokens in about 90 batches.
    assert!((85..=95).contains(&n_batches), "{n_batches} batches");
    assert_eq!(n_bulk_tokens, 1800);
}

type Waiting = (
    Receiver<Result<Answer, ModelError>>,
    Vec<Tokens>,
    Deadline,
    Class,
);

#[test]
fn what_the_model_does_not_begin_with_in_time_is_refused() {
    let max_wait = Duration::from_millis(200);
    let mut queue = Queue::new(QueueConfig {
        max_wait,
        ..config()
    });
    let start = Instant::now();
    let mut push = |id, n_rows, class, at: u64| {
        let now = start + Duration::from_millis(at);
        let rows = vec![row(id, 80); n_rows];
        queue.push(rows, class, Deadline::NONE, now).unwrap()
    };
    let mut begun = push(1, 3, Class::Interactive, 0);
    let mut late = push(2, 1, Class::Interactive, 10);
    let mut bulk = push(3, 1, Class::Bulk, 10);
    let mut in_time = push(4, 1, Class::Interactive, 150);
    let first = queue.take_batch(start).unwrap();
    complete(&mut queue, &first);
    assert_eq!(ids(&first), [1]);
    // The first one is in the middle of its rows and does not wait any more.
    let now = start + Duration::from_millis(211);
    while let Some(batch) = queue.take_batch(now) {
        complete(&mut queue, &batch);
    }
    assert_eq!(values(&mut begun).len(), 3);
    assert_eq!(values(&mut in_time).len(), 1);
    assert_eq!(values(&mut bulk).len(), 1);
    let error = late.try_recv().unwrap().unwrap_err();
    let waited = Duration::from_millis(201);
    assert!(
        matches!(&error, ModelError::WaitedTooLong { waited: of, limit } if (*of, *limit) == (waited, max_wait)),
        "{error}"
    );
    let problem = ApiError::model(error).problem("/", "r");
    assert_eq!((problem.status, problem.retry_after_ms), (429, Some(201)));
    assert_eq!(queue.take_dropped().late, 1);
    assert_eq!(queue.held_tokens(), 0);
}

/// Arrivals of the long random histories.
const ARRIVALS: u32 = 100_000;

/// A long random history on a clock that only the test moves.
#[test]
fn nothing_is_lost_answered_twice_or_computed_too_late() {
    let mut random = StdRng::seed_from_u64(7);
    let max_wait = Duration::from_millis(4);
    let mut queue = Queue::new(QueueConfig {
        max_wait,
        ..config()
    });
    let mut now = Instant::now();
    let mut waiting: HashMap<u32, Waiting> = HashMap::new();
    let mut outputs = Vec::new();
    let (mut n_answered, mut n_expired, mut n_cancelled, mut n_refused) = (0, 0, 0, 0);
    let mut n_late = 0;
    for id in 0..ARRIVALS {
        now += Duration::from_millis(random.random_range(0..4));
        let n_rows = random.random_range(1..=6);
        let rows: Vec<Tokens> = (0..n_rows)
            .map(|_| row(id, random.random_range(1..=100)))
            .collect();
        let class = if random.random_bool(0.5) {
            Class::Interactive
        } else {
            Class::Bulk
        };
        let deadline = match random.random_bool(0.5) {
            true => Deadline::at(now + Duration::from_millis(random.random_range(0..40))),
            false => Deadline::NONE,
        };
        let output = match random.random_bool(0.05) {
            true => Output::TokenVectors,
            false => Output::Vector,
        };
        outputs.push(output);
        let work = Work {
            rows: rows.clone(),
            output,
        };
        match queue.push(work, class, deadline, now) {
            Ok(answered) => drop(waiting.insert(id, (answered, rows, deadline, class))),
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Full { held, .. } if held <= 1000));
                n_refused += 1;
            }
        }
        assert!(queue.held_tokens() <= 1000);
        if random.random_bool(0.1) {
            let given_up = waiting.keys().copied().min();
            n_cancelled += given_up.and_then(|id| waiting.remove(&id)).map_or(0, |_| 1);
        }
        if random.random_bool(0.7)
            && let Some(batch) = queue.take_batch(now)
        {
            assert!(batch.n_tokens <= 100);
            assert_eq!(
                batch.n_tokens,
                batch.rows.iter().map(Tokens::len).sum::<usize>()
            );
            assert_eq!(
                batch.rows.len(),
                batch.parts.iter().map(|part| part.n_rows).sum::<usize>()
            );
            for id in ids(&batch) {
                assert_eq!(outputs[id as usize], batch.output);
                let (_, _, deadline, _) = waiting
                    .get(&id)
                    .expect("a request given up is not computed");
                assert!(
                    deadline.moment().is_none_or(|moment| moment > now),
                    "{id} is expired"
                );
            }
            complete(&mut queue, &batch);
        }
        waiting.retain(
            |_, (answered, rows, deadline, class)| match answered.try_recv() {
                Ok(Ok(answer)) => {
                    assert_eq!(answer.values, rows.iter().map(value).collect::<Vec<_>>());
                    assert!(answer.queue <= max_wait || *class == Class::Bulk);
                    n_answered += 1;
                    false
                }
                Ok(Err(ModelError::WaitedTooLong { waited, .. })) => {
                    assert!(waited > max_wait && *class == Class::Interactive);
                    n_late += 1;
                    false
                }
                Ok(Err(error)) => {
                    assert!(matches!(error, ModelError::DeadlineExceeded), "{error}");
                    assert!(deadline.moment().is_some_and(|moment| moment <= now));
                    n_expired += 1;
                    false
                }
                Err(TryRecvError::Empty) => true,
                Err(TryRecvError::Closed) => panic!("a request was lost"),
            },
        );
    }
    while let Some(batch) = queue.take_batch(now) {
        complete(&mut queue, &batch);
    }
    assert_eq!(queue.held_tokens(), 0);
    for (_, (mut answered, ..)) in waiting {
        match answered.try_recv().expect("the queue is empty") {
            Ok(_) => n_answered += 1,
            Err(ModelError::WaitedTooLong { .. }) => n_late += 1,
            Err(_) => n_expired += 1,
        }
    }
    let counts = [n_answered, n_expired, n_cancelled, n_refused, n_late];
    assert_eq!(counts.iter().sum::<u32>(), ARRIVALS);
    assert!(counts.iter().all(|n| *n > 500), "{counts:?}");
}

/// However full the queue, a request waits for what is ahead of it in its class, at the pace that its class is owed.
#[test]
fn waits_are_bounded_by_what_is_ahead() {
    let mut random = StdRng::seed_from_u64(11);
    let mut queue = Queue::new(config());
    let now = Instant::now();
    let longest = 30;
    // Tokens that wait, by class; batches so far; and of each request its class, the tokens up to its own, and when it came.
    let (mut held, mut n_batches) = ([0usize; 2], 0usize);
    let mut waiting: HashMap<u32, (Receiver<_>, usize, usize, usize)> = HashMap::new();
    let mut n_answered = 0;
    for id in 0..ARRIVALS {
        let lengths: Vec<usize> = (0..random.random_range(1..=4))
            .map(|_| random.random_range(1..=longest))
            .collect();
        let rows: Vec<Tokens> = lengths.iter().map(|&length| row(id, length)).collect();
        let bulk = random.random_bool(0.3);
        let class = if bulk {
            Class::Bulk
        } else {
            Class::Interactive
        };
        if let Ok(answered) = queue.push(rows, class, Deadline::NONE, now) {
            held[usize::from(bulk)] += lengths.iter().sum::<usize>();
            let ahead = held[usize::from(bulk)];
            waiting.insert(id, (answered, usize::from(bulk), ahead, n_batches));
        }
        if random.random_bool(0.45) || id + 1 == ARRIVALS {
            let Some(batch) = queue.take_batch(now) else {
                continue;
            };
            n_batches += 1;
            for row in &batch.rows {
                held[waiting[&row.ids[0]].1] -= row.len();
            }
            complete(&mut queue, &batch);
            waiting.retain(|_, (answered, class, ahead, came)| {
                if !matches!(answered.try_recv(), Ok(Ok(_))) {
                    return true;
                }
                // Four fifths of each batch, less a row that did not fit any more; and bulk is owed the last fifth. Eight
                // more, for what its class had taken ahead of its turn (a batch, worked off by fifths) and for rows that
                // did not fit.
                let pace = [80 - longest, 20][*class];
                let allowed = *ahead / pace + 8;
                assert!(
                    n_batches - *came <= allowed,
                    "{} > {allowed}",
                    n_batches - *came
                );
                n_answered += 1;
                false
            });
        }
    }
    assert!(n_answered > ARRIVALS / 2, "{n_answered}");
}

/// A model that computes when told, counts its calls, refuses token 13 and panics at token 66.
struct FakeModel {
    go: mpsc::Receiver<()>,
    n_rows: Arc<AtomicUsize>,
}

impl Engine for FakeModel {
    fn n_values(&self, _row: &Tokens, _output: Output) -> usize {
        1
    }

    fn compute(&self, rows: &[Tokens], _output: Output) -> Result<Vec<f32>, EncodeError> {
        self.go.recv().expect("the test outlives the model");
        if let Some(row) = rows.iter().position(|row| row.ids[0] == 13) {
            return Err(EncodeError::Empty { row });
        }
        assert!(rows.iter().all(|row| row.ids[0] != 66), "told to panic");
        self.n_rows.fetch_add(rows.len(), Ordering::SeqCst);
        Ok(rows.iter().map(value).collect())
    }
}

struct Bench {
    scheduler: Arc<Scheduler>,
    go: mpsc::Sender<()>,
    n_rows: Arc<AtomicUsize>,
}

type Pending = tokio::task::JoinHandle<Result<Answer, ModelError>>;

impl Bench {
    fn new() -> Self {
        let (go, received) = mpsc::channel();
        let n_rows = Arc::new(AtomicUsize::new(0));
        let model = FakeModel {
            go: received,
            n_rows: Arc::clone(&n_rows),
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let scheduler = Scheduler::start("encode", "fake", model, config(), metrics).unwrap();
        Self {
            scheduler: Arc::new(scheduler),
            go,
            n_rows,
        }
    }

    /// Submits one row and returns once it waits, or is with the model where nothing else is.
    async fn submit(&self, row: Tokens, deadline: Deadline) -> Pending {
        let scheduler = Arc::clone(&self.scheduler);
        let task = tokio::spawn(async move {
            scheduler
                .submit(vec![row], Class::Interactive, deadline)
                .await
        });
        tokio::task::yield_now().await;
        task
    }

    /// Occupies the model until `go` is sent to once.
    async fn occupy(&self) -> Pending {
        let busy = self.submit(row(0, 100), Deadline::NONE).await;
        while self.scheduler.shared.lock().queue.held_tokens() > 0 {
            tokio::task::yield_now().await;
        }
        busy
    }
}

#[tokio::test]
async fn waiting_requests_are_computed_together() {
    let bench = Bench::new();
    let busy = bench.occupy().await;
    let mut others = Vec::new();
    for id in 1..=4 {
        others.push(bench.submit(row(id, 25), Deadline::NONE).await);
    }
    bench.go.send(()).unwrap();
    bench.go.send(()).unwrap(); // One more call is enough for all four.
    busy.await.unwrap().unwrap();
    for (other, id) in others.into_iter().zip(1..) {
        assert_eq!(other.await.unwrap().unwrap().values, [value(&row(id, 25))]);
    }
}

#[tokio::test]
async fn expired_and_abandoned_requests_are_never_computed() {
    let bench = Bench::new();
    let busy = bench.occupy().await;
    let expiring = bench
        .submit(row(1, 10), Deadline::after(Duration::from_millis(1)))
        .await;
    let abandoned = bench.submit(row(2, 10), Deadline::NONE).await;
    let kept = bench.submit(row(3, 10), Deadline::NONE).await;
    abandoned.abort();
    // The answer comes at the deadline although the model is still busy.
    assert!(matches!(
        expiring.await.unwrap(),
        Err(ModelError::DeadlineExceeded)
    ));
    assert!(abandoned.await.unwrap_err().is_cancelled());
    bench.go.send(()).unwrap();
    bench.go.send(()).unwrap();
    busy.await.unwrap().unwrap();
    kept.await.unwrap().unwrap();
    assert_eq!(bench.n_rows.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_bad_request_does_not_cost_the_others_their_answer() {
    for bad in [13, 66] {
        let bench = Bench::new();
        let busy = bench.occupy().await;
        let first = bench.submit(row(1, 10), Deadline::NONE).await;
        let second = bench.submit(row(bad, 10), Deadline::NONE).await;
        let third = bench.submit(row(3, 10), Deadline::NONE).await;
        for _ in 0..5 {
            bench.go.send(()).unwrap(); // The first batch, the three together, and each alone.
        }
        busy.await.unwrap().unwrap();
        assert_eq!(first.await.unwrap().unwrap().values, [value(&row(1, 10))]);
        let error = second.await.unwrap().unwrap_err();
        assert_eq!(matches!(error, ModelError::Failed(_)), bad == 13, "{error}");
        assert_eq!(third.await.unwrap().unwrap().values, [value(&row(3, 10))]);
    }
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let bench = Bench::new();
    let busy = bench.occupy().await;
    let mut admitted = Vec::new();
    for id in 1..=10 {
        admitted.push(bench.submit(row(id, 100), Deadline::NONE).await);
    }
    let refused = bench
        .submit(row(11, 1), Deadline::NONE)
        .await
        .await
        .unwrap()
        .unwrap_err();
    let ModelError::Overloaded {
        held,
        limit,
        retry_after,
        ..
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!((held, limit), (1000, 1000));
    assert!(retry_after > Duration::ZERO);
    for _ in 0..11 {
        bench.go.send(()).unwrap();
    }
    busy.await.unwrap().unwrap();
    for answer in admitted {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_scheduler_that_goes_away_answers_what_waits() {
    let bench = Bench::new();
    let busy = bench.occupy().await;
    let waiting = bench.submit(row(1, 10), Deadline::NONE).await;
    bench.scheduler.shared.lock().closed = true;
    bench.go.send(()).unwrap();
    busy.await.unwrap().unwrap();
    assert!(matches!(
        waiting.await.unwrap(),
        Err(ModelError::ShuttingDown)
    ));
}
