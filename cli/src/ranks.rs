//! Which of several processes this is, by what their launcher says, and how they find each other.

use std::time::Duration;

use anyhow::Context;
use sha2::{Digest, Sha256};
use trainer::ranks::{Alone, Collective, Tcp, TcpConfig};

use crate::failure::{Exit, Failure};

/// The place of this process among those that a launcher has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    rank: usize,
    world_size: usize,
    /// The number of this process among those on its machine; that among all where the launcher does not say it.
    pub local_rank: usize,
    /// Processes on this machine, where the launcher leaves them all its cores.
    pub n_local: usize,
    /// Host and port of rank 0.
    address: String,
}

/// How long other processes are waited for: see [`TcpConfig`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub timeout: Duration,
    pub patience: Duration,
}

/// How a launcher calls things.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    /// Without it the other variables mean something else.
    needs: Option<&'static str>,
}

/// Inner launchers first: torchrun runs under the others, mpirun under Slurm.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        name: "torchrun",
        rank: "RANK",
        world_size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        needs: None,
    },
    Launcher {
        name: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        needs: None,
    },
    Launcher {
        name: "mpirun",
        rank: "PMI_RANK",
        world_size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        needs: None,
    },
    Launcher {
        name: "srun",
        rank: "SLURM_PROCID",
        world_size: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        needs: Some("SLURM_STEP_ID"), // a batch script has the others, too, and is one process
    },
];

/// Looks up a variable; an empty one is none.
type Look<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl Place {
    /// What the environment says; none for a process alone. `port` stands above the environment's.
    pub fn of_environment(port: Option<u16>) -> Result<Option<Self>, Failure> {
        Self::of(&|name| std::env::var(name).ok(), port)
    }

    fn of(look: &Look<'_>, port: Option<u16>) -> Result<Option<Self>, Failure> {
        let look = &|name: &str| look(name).filter(|value| !value.is_empty());
        let mut found: Option<(&Launcher, usize, usize)> = None;
        for launcher in &LAUNCHERS {
            let Some((rank, world_size)) = launcher.read(look)? else {
                continue;
            };
            let Some((inner, inner_rank, inner_size)) = found else {
                found = Some((launcher, rank, world_size));
                continue;
            };
            // A launcher that another one runs has ranks of its own; variables that somebody set have not.
            let is_set = inner.name == "torchrun" && look("TORCHELASTIC_RUN_ID").is_none();
            if is_set && (inner_rank, inner_size) != (rank, world_size) {
                return Err(Failure::usage(format!(
                    "`{}` and `{}` are {inner_rank} and {inner_size}, but `{}` and `{}` are {rank} and {world_size}",
                    inner.rank, inner.world_size, launcher.rank, launcher.world_size
                )));
            }
        }
        let Some((launcher, rank, world_size)) = found.filter(|(.., world_size)| *world_size > 1)
        else {
            return Ok(None);
        };
        let required = |name: &str| {
            look(name).ok_or_else(|| {
                let text = format!("`{name}` is not set, where rank 0 of {world_size} is found");
                Failure::usage(text).hint("export MASTER_ADDR and MASTER_PORT for all processes")
            })
        };
        let host = required("MASTER_ADDR")?;
        let port = match port {
            Some(port) => port,
            None => {
                let port: Option<u16> = required("MASTER_PORT")?.parse().ok();
                // torchrun itself listens at its port.
                let is_taken = look("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
                let port = port.filter(|&port| port > 0);
                let port = port.and_then(|port| port.checked_add(is_taken.into()));
                port.ok_or_else(|| Failure::usage("`MASTER_PORT` is no port"))?
            }
        };
        let n_local = match launcher.name {
            "torchrun" => number(look, "LOCAL_WORLD_SIZE")?.unwrap_or(1).max(1),
            _ => 1,
        };
        Ok(Some(Self {
            rank,
            world_size,
            local_rank: number(look, launcher.local_rank)?.unwrap_or(rank),
            n_local,
            address: match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            },
        }))
    }

    /// Finds the other processes; `what` is what all of them have to have in common.
    fn connect(&self, what: &str, limits: Limits) -> anyhow::Result<Tcp> {
        let config = TcpConfig {
            rank: self.rank,
            world_size: self.world_size,
            address: self.address.clone(),
            fingerprint: fingerprint(what),
            timeout: limits.timeout,
            patience: limits.patience,
        };
        let (rank, world_size) = (self.rank, self.world_size);
        Tcp::connect(&config).with_context(|| format!("rank {rank} of {world_size} cannot begin"))
    }
}

/// The number of this process among those on its machine, where a launcher says it.
pub fn local_rank() -> Result<Option<usize>, Failure> {
    let look = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut known = LAUNCHERS
        .iter()
        .map(|launcher| number(&look, launcher.local_rank));
    known.find_map(Result::transpose).transpose()
}

impl Launcher {
    /// Rank and number of ranks, where this launcher has started the process.
    fn read(&self, look: &Look<'_>) -> Result<Option<(usize, usize)>, Failure> {
        if self.needs.is_some_and(|needs| look(needs).is_none()) {
            return Ok(None);
        }
        let (rank, world_size) = (number(look, self.rank)?, number(look, self.world_size)?);
        let missing = |is: &str, not: &str| {
            let text = format!("`{is}` is set and `{not}` is not; {} sets both", self.name);
            Err(Failure::usage(text))
        };
        let (rank, world_size) = match (rank, world_size) {
            (None, None) => return Ok(None),
            (Some(_), None) => return missing(self.rank, self.world_size),
            // The size of an allocation that nothing was started in.
            (None, Some(_)) if self.name == "srun" => return Ok(None),
            (None, Some(_)) => return missing(self.world_size, self.rank),
            (Some(rank), Some(world_size)) => (rank, world_size),
        };
        if rank >= world_size {
            let text = format!(
                "`{}` is {rank}, `{}` is {world_size}",
                self.rank, self.world_size
            );
            return Err(Failure::usage(text).hint("ranks are counted from 0"));
        }
        match number(look, self.local_rank)? {
            Some(local) if local > rank => Err(Failure::usage(format!(
                "`{}` is {local}, `{}` is {rank}",
                self.local_rank, self.rank
            ))),
            _ => Ok(Some((rank, world_size))),
        }
    }
}

fn number(look: &Look<'_>, name: &str) -> Result<Option<usize>, Failure> {
    let Some(value) = look(name) else {
        return Ok(None);
    };
    let number = value.parse().map(Some);
    number.map_err(|_| Failure::new(Exit::Usage, format!("`{name}` is `{value}`, not a number")))
}

/// The processes of an MPI job.
#[cfg(feature = "mpi")]
pub fn join_mpi(what: &str) -> anyhow::Result<Box<dyn Collective>> {
    Ok(Box::new(trainer::ranks::Mpi::join(fingerprint(what))?))
}

/// Says that there are none.
#[cfg(not(feature = "mpi"))]
pub fn join_mpi(_: &str) -> anyhow::Result<Box<dyn Collective>> {
    let failure = Failure::usage("this trawl was built without MPI");
    Err(failure
        .hint("`cargo build --release --features mpi`")
        .into())
}

fn fingerprint(what: &str) -> [u8; 16] {
    let digest = Sha256::digest(what);
    digest[..16].try_into().expect("sha256 has 32 bytes")
}

/// The processes that train together.
pub fn connect(
    place: Option<&Place>,
    what: &str,
    limits: Limits,
) -> anyhow::Result<Box<dyn Collective>> {
    Ok(match place {
        Some(place) => Box::new(place.connect(what, limits)?),
        None => Box::new(Alone),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &str) -> Result<Option<Place>, Failure> {
        place_at(variables, None)
    }

    fn place_at(variables: &str, port: Option<u16>) -> Result<Option<Place>, Failure> {
        let variables: Vec<(&str, &str)> = variables
            .split_whitespace()
            .filter_map(|one| one.split_once('='))
            .collect();
        let look = |name: &str| {
            let found = variables.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Place::of(&look, port)
    }

    #[test]
    fn launchers_say_who_one_is() {
        for (variables, expected) in [
            ("", None),
            ("RANK=0 WORLD_SIZE=1", None),
            ("SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0", None), // a batch script
            ("SLURM_STEP_ID=0 SLURM_NTASKS=1 SLURM_PROCID=0", None),
            ("RANK=1 WORLD_SIZE=2 LOCAL_RANK=1", Some((1, 2, 1))),
            (
                "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2",
                Some((3, 4, 2)),
            ),
            (
                "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2",
                Some((0, 2, 1)),
            ),
            ("PMI_RANK=2 PMI_SIZE=3", Some((2, 3, 1))),
            (
                "SLURM_STEP_ID=0 SLURM_NTASKS=4 SLURM_PROCID=3 SLURM_LOCALID=1",
                Some((3, 4, 1)),
            ),
            // torchrun on each of two machines that Slurm gave.
            (
                "TORCHELASTIC_RUN_ID=x RANK=3 WORLD_SIZE=4 SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_PROCID=1",
                Some((3, 4, 1)),
            ),
            // mpirun in a step of Slurm.
            (
                "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_PROCID=0",
                Some((1, 4, 1)),
            ),
        ] {
            let found = place(&format!("{variables} MASTER_ADDR=h MASTER_PORT=1"));
            let found = found.expect("a place");
            if let Some(found) = &found {
                assert_eq!(found.address, "h:1");
            }
            let found = found.map(|one| (one.rank, one.world_size, one.n_local));
            assert_eq!(found, expected, "{variables}");
        }
        let torchrun = "RANK=0 WORLD_SIZE=2 MASTER_ADDR=::1 MASTER_PORT=9";
        let found = place(&format!("{torchrun} TORCHELASTIC_USE_AGENT_STORE=True"));
        let found = found.expect("a place").expect("two ranks");
        assert_eq!(found.address, "[::1]:10");
        for (variables, expected) in [("LOCAL_RANK=1", 1), ("", 3)] {
            let all = format!("RANK=3 WORLD_SIZE=4 {variables} MASTER_ADDR=h MASTER_PORT=1");
            let found = place(&all).expect("a place").expect("four ranks");
            assert_eq!(found.local_rank, expected, "{variables}");
        }
        let found = place_at("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h", Some(7));
        assert_eq!(found.expect("a place").expect("two ranks").address, "h:7");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (variables, named) in [
            ("RANK=0", &["`RANK`", "`WORLD_SIZE`"][..]),
            ("WORLD_SIZE=2", &["`RANK`", "`WORLD_SIZE`"]),
            ("RANK=2 WORLD_SIZE=2", &["`RANK` is 2", "`WORLD_SIZE` is 2"]),
            ("RANK=x WORLD_SIZE=2", &["`RANK` is `x`"]),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1", &["`LOCAL_RANK` is 1"]),
            ("RANK=0 WORLD_SIZE=2", &["`MASTER_ADDR` is not set"]),
            (
                "RANK=0 WORLD_SIZE=2 MASTER_ADDR=h",
                &["`MASTER_PORT` is not set"],
            ),
            (
                "RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=0",
                &["`MASTER_PORT` is no port"],
            ),
            ("OMPI_COMM_WORLD_RANK=0", &["`OMPI_COMM_WORLD_SIZE`"]),
            (
                "RANK=0 WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2",
                &["`RANK`", "`OMPI_COMM_WORLD_RANK`"],
            ),
        ] {
            let error = place(variables).expect_err("no place").to_string();
            for name in named {
                assert!(error.contains(name), "{variables}: {error}");
            }
        }
    }
}
