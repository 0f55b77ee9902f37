//! Ranks on threads: what they exchange, and what becomes of a rank that is missing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use trainer::ranks::{Alone, Collective, CollectiveError, Difference, Tcp, TcpConfig};

fn config(listener: &TcpListener, rank: usize, world_size: usize) -> TcpConfig {
    TcpConfig {
        rank,
        world_size,
        address: listener.local_addr().unwrap().to_string(),
        fingerprint: *b"one and the same",
        timeout: Duration::from_secs(60),
        patience: Duration::from_secs(60),
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// What each rank comes to, in their order.
pub fn with_ranks<R: Send>(
    world_size: usize,
    work: impl Fn(&dyn Collective) -> R + Sync,
) -> Vec<R> {
    if world_size == 1 {
        return vec![work(&Alone)];
    }
    let listener = listener();
    let configs: Vec<TcpConfig> = (0..world_size)
        .map(|rank| config(&listener, rank, world_size))
        .collect();
    thread::scope(|scope| {
        let work = &work;
        let mut listener = Some(listener);
        let ranks: Vec<_> = configs
            .iter()
            .map(|config| {
                let listener = listener.take();
                scope.spawn(move || {
                    let ranks = match listener {
                        Some(listener) => Tcp::host(listener, config),
                        None => Tcp::connect(config),
                    };
                    work(&ranks.unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn all_ranks_learn_what_each_has() {
    for world_size in [1, 2, 4] {
        let found = with_ranks(world_size, |ranks| {
            let rank = ranks.rank();
            assert_eq!(ranks.world_size(), world_size);
            // In f32 these sums depend on their order.
            let mut sums: Vec<f32> = (0..100_000)
                .map(|i| ((rank * 31 + i * 7 + 1) as f32).sin() * 10f32.powi((i + rank) as i32 % 9))
                .collect();
            let own = sums.clone();
            ranks.all_reduce(&mut sums).unwrap();
            ranks.barrier().unwrap();
            let lengths: Vec<f32> = (0..2 * rank).map(|i| i as f32).collect();
            let gathered = ranks.all_gather(&lengths).unwrap();
            let first = ranks.broadcast(&[rank as f32 + 7.0]).unwrap();
            (own, sums, gathered, first)
        });
        for (_, sums, gathered, first) in &found {
            for (i, sum) in sums.iter().enumerate() {
                let others = found[1..].iter();
                let expected = others.fold(found[0].0[i], |sum, (own, ..)| sum + own[i]);
                assert_eq!(sum.to_bits(), expected.to_bits(), "{i} of {world_size}");
            }
            let lengths: Vec<usize> = gathered.iter().map(Vec::len).collect();
            let expected: Vec<usize> = (0..world_size).map(|rank| 2 * rank).collect();
            assert_eq!((lengths, &first[..]), (expected, &[7.0][..]));
        }
    }
}

/// What each of three ranks says when rank 1 does something else than `all_gather`.
fn say(of_rank_1: impl Fn(&dyn Collective) + Sync) -> Vec<String> {
    with_ranks(3, |ranks| {
        ranks.barrier().unwrap();
        if ranks.rank() == 1 {
            of_rank_1(ranks);
            return String::new();
        }
        let error = loop {
            if let Err(error) = ranks.all_gather(&[1.0]) {
                break error;
            }
        };
        error.to_string()
    })
}

#[test]
fn a_rank_that_is_missing_is_named_to_all() {
    let gone = "rank 1 is gone: it closed its connection";
    let ended = |reason: &str| format!("rank 0 ended the run: {reason}");
    let said = say(|_| {});
    assert_eq!((&*said[0], said[2].clone()), (gone, ended(gone)));

    let said = say(|ranks| drop(ranks.broadcast(&[])));
    let other = "rank 1 is out of step: expected gather, found broadcast";
    assert_eq!((&*said[0], said[2].clone()), (other, ended(other)));
}

/// Greets as a rank and then says nothing.
fn greet(listener: &TcpListener, numbers: [u32; 3], fingerprint: &[u8; 16]) -> TcpStream {
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(b"TRWL").unwrap();
    for number in numbers {
        stream.write_all(&number.to_le_bytes()).unwrap();
    }
    stream.write_all(fingerprint).unwrap();
    stream
}

/// Who joined first may have waited for the last rank for nearly as long as one may be silent.
#[test]
fn rank_0_says_that_it_lives_as_soon_as_all_have_joined() {
    let listener = listener();
    let config = config(&listener, 0, 2);
    let mut guest = greet(&listener, [1, 2, 1], &config.fingerprint);
    thread::scope(|scope| {
        scope.spawn(move || drop(Tcp::host(listener, &config).unwrap()));
        let mut said = Vec::new();
        guest.read_to_end(&mut said).unwrap();
        let (frames, rest) = said.as_chunks::<5>();
        let alive = [3_u8, 0, 0, 0, 0]; // A frame without a payload.
        assert!(!frames.is_empty() && rest.is_empty(), "{said:?}");
        assert!(frames.iter().all(|frame| *frame == alive), "{said:?}");
        drop(guest);
    });
}

#[test]
fn a_rank_that_says_nothing_is_missed() {
    let listener = listener();
    let config = TcpConfig {
        timeout: Duration::from_secs(1),
        ..config(&listener, 0, 2)
    };
    let silent = greet(&listener, [1, 2, 1], &config.fingerprint);
    let ranks = Tcp::host(listener, &config).unwrap();
    let error = ranks.barrier().unwrap_err();
    assert!(
        matches!(error, CollectiveError::Silent { rank: 1, .. }),
        "{error}"
    );
    drop(silent);
}

#[test]
fn a_rank_that_lives_and_hangs_is_named_to_all() {
    let listener = listener();
    let impatient = |rank| TcpConfig {
        patience: Duration::from_secs(1),
        ..config(&listener, rank, 3)
    };
    // Who waits for rank 0 has to have more patience than that has, however late it begins to wait.
    let (host, hanging, waiting) = (impatient(0), impatient(1), config(&listener, 2, 3));
    thread::scope(|scope| {
        let hanging = scope.spawn(move || Tcp::connect(&hanging).unwrap());
        let waiting = scope.spawn(move || {
            let ranks = Tcp::connect(&waiting).unwrap();
            ranks.barrier().unwrap_err().to_string()
        });
        let ranks = Tcp::host(listener, &host).unwrap();
        let hanging = hanging.join().unwrap();
        let error = ranks.barrier().unwrap_err().to_string();
        let stuck = "rank 1 is stuck: it lives, and others have waited for it for 1 s";
        assert_eq!(error, stuck);
        let said = waiting.join().unwrap();
        assert_eq!(said, format!("rank 0 ended the run: {stuck}"));
        drop(hanging);
    });
}

#[test]
fn ranks_that_do_not_come_are_named() {
    let listener = listener();
    let host = TcpConfig {
        timeout: Duration::from_millis(300),
        ..config(&listener, 0, 4)
    };
    let joined = Tcp::connect(&config(&listener, 2, 4)).unwrap();
    let error = Tcp::host(listener, &host).err().unwrap().to_string();
    assert_eq!(error, "ranks 1, 3 have not joined within 0.3 s");
    let said = joined.barrier().unwrap_err().to_string();
    assert_eq!(said, format!("rank 0 ended the run: {error}"));
    let nobody = TcpConfig {
        rank: 1,
        // Where nobody listens, and no other test does soon.
        address: "127.0.0.1:1".to_owned(),
        ..host
    };
    let error = Tcp::connect(&nobody).err().unwrap();
    assert_eq!(error.to_string(), "rank 0 has not joined within 0.3 s");
}

#[test]
fn a_rank_that_left_before_all_had_joined_can_come_again() {
    let listener = listener();
    let [host, first, second] = [0, 1, 2].map(|rank| config(&listener, rank, 3));
    let mut gone = greet(&listener, [1, 3, 1], &host.fingerprint);
    gone.write_all(&[3, 0, 0, 0, 0]).unwrap(); // It lived.
    drop(gone);
    // Rank 0 greets them in this order.
    let guests = [first, second].map(|config| Tcp::connect(&config).unwrap());
    thread::scope(|scope| {
        for guest in guests {
            scope.spawn(move || guest.barrier().unwrap());
        }
        Tcp::host(listener, &host).unwrap().barrier().unwrap();
    });

    // One that is still there is not replaced.
    let listener = self::listener();
    let host = config(&listener, 0, 3);
    let _both = [1, 1].map(|rank| greet(&listener, [1, 3, rank], &host.fingerprint));
    let error = Tcp::host(listener, &host).err().unwrap();
    assert_eq!(error.to_string(), "rank 1 is there twice");
}

/// What rank 0 of two says to somebody who greets it.
fn refused(numbers: [u32; 3], fingerprint: &[u8; 16]) -> CollectiveError {
    let listener = listener();
    let config = TcpConfig {
        timeout: Duration::from_millis(500),
        ..config(&listener, 0, 2)
    };
    let _stream = greet(&listener, numbers, fingerprint);
    Tcp::host(listener, &config).err().unwrap()
}

#[test]
fn only_ranks_of_one_run_train_together() {
    let own = b"one and the same";
    for (numbers, fingerprint, expected) in [
        ([2, 2, 1], own, Difference::Protocol),
        ([1, 3, 1], own, Difference::WorldSize),
        ([1, 2, 1], b"one and another!", Difference::Fingerprint),
    ] {
        let error = refused(numbers, fingerprint);
        assert!(
            matches!(error, CollectiveError::Different { rank: 1, what } if what == expected),
            "{error}"
        );
    }
    let error = refused([1, 2, 0], own);
    assert!(matches!(error, CollectiveError::Repeated { .. }), "{error}");
    for rank in [2, u32::MAX] {
        let error = refused([1, 2, rank], own);
        let expected = format!("rank {rank} is none of 2 ranks");
        assert_eq!(error.to_string(), expected);
    }

    // Who is of another run, or speaks something else, does not end the run.
    let listener = listener();
    let (host, guest) = (config(&listener, 0, 2), config(&listener, 1, 2));
    let _others = [
        greet(&listener, [1, 2, 1], b"one and another!"),
        greet(&listener, [1, 2, 7], own),
    ];
    let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stranger
        .write_all(b"GET /v1/health HTTP/1.1\r\nhost: trawl\r\n\r\n")
        .unwrap();
    thread::scope(|scope| {
        scope.spawn(move || Tcp::connect(&guest).unwrap().barrier().unwrap());
        Tcp::host(listener, &host).unwrap().barrier().unwrap();
    });
}
