use encoder::training::{Extent, Parameters, TrainingError};
use xxhash_rust::xxh3::Xxh3;

use super::{Collective, CollectiveError, Difference};
use crate::run::TrainError;

/// Values that are added up at once: 25 MiB, as PyTorch cuts gradients.
const BUCKET: usize = 25 << 18;

/// Rows of a larger table have numbers that f32 does not hold.
const MOST_ROWS: usize = 1 << 24;

/// Replaces the gradients of parameters by their sums over all ranks.
///
/// Of a table the rows that any rank has seen are exchanged, and a parameter that none has reached stays without gradient:
/// the optimizer then does what it does alone.
pub(crate) fn reduce_gradients(
    parameters: &Parameters,
    ranks: &dyn Collective,
) -> Result<(), TrainingError> {
    if ranks.is_alone() {
        return Ok(());
    }
    let mut own = Vec::new();
    for parameter in parameters.iter() {
        let is_large = parameter.shape().first().is_some_and(|&n| n > MOST_ROWS);
        match parameter.gradient_extent() {
            Extent::Nothing => own.push(0.0),
            Extent::Rows(rows) if !is_large => {
                own.extend([1.0, rows.len() as f32]);
                own.extend(rows.into_iter().map(|row| row as f32));
            }
            _ => own.push(2.0),
        }
    }
    let all = ranks.all_gather(&own)?;
    let mut all: Vec<_> = all.iter().map(|values| values.iter().copied()).collect();
    let mut extents = Vec::new();
    for _ in parameters.iter() {
        let found = all.iter_mut().map(next_extent);
        extents.push(found.fold(Extent::Nothing, union));
    }
    let mut values = Vec::new();
    for (parameter, extent) in parameters.iter().zip(&extents) {
        parameter.append_gradient(extent, &mut values)?;
    }
    for bucket in values.chunks_mut(BUCKET) {
        ranks.all_reduce(bucket)?;
    }
    let mut rest = &values[..];
    for (parameter, extent) in parameters.iter().zip(&extents) {
        let (sums, others) = rest.split_at(extent.n_values(parameter.shape()));
        parameter.set_gradient(extent, sums)?;
        rest = others;
    }
    Ok(())
}

/// Reads what of one gradient a rank has.
fn next_extent(values: &mut impl Iterator<Item = f32>) -> Extent {
    match values.next() {
        Some(1.0) => {
            let n_rows = values.next().unwrap_or(0.0) as usize;
            Extent::Rows(values.take(n_rows).map(|row| row as u32).collect())
        }
        Some(2.0) => Extent::Whole,
        _ => Extent::Nothing,
    }
}

fn union(one: Extent, other: Extent) -> Extent {
    match (one, other) {
        (Extent::Nothing, extent) | (extent, Extent::Nothing) => extent,
        (Extent::Rows(mut rows), Extent::Rows(others)) => {
            rows.extend(others);
            rows.sort_unstable();
            rows.dedup();
            Extent::Rows(rows)
        }
        _ => Extent::Whole,
    }
}

/// Returns the numbers of each rank, unchanged.
pub(crate) fn gather_numbers(
    numbers: &[u64],
    ranks: &dyn Collective,
) -> Result<Vec<Vec<u64>>, CollectiveError> {
    // 16 bits at a time are whole numbers of f32.
    let part = |number: u64| (0..4).map(move |part| f32::from((number >> (16 * part)) as u16));
    let parts: Vec<f32> = numbers.iter().flat_map(|&number| part(number)).collect();
    let join = |parts: &[f32]| {
        let parts = parts.iter().rev();
        parts.fold(0, |number, &part| (number << 16) | u64::from(part as u16))
    };
    let all = ranks.all_gather(&parts)?;
    Ok(all
        .iter()
        .map(|parts| parts.chunks(4).map(join).collect())
        .collect())
}

/// Makes sure that all ranks stand at the same step, with the same data and equal weights.
pub(crate) fn agree(
    step: u64,
    data: u64,
    parameters: &Parameters,
    ranks: &dyn Collective,
) -> Result<(), TrainError> {
    if ranks.is_alone() {
        return Ok(());
    }
    let mut hash = Xxh3::new();
    for parameter in parameters.iter() {
        hash.update(parameter.name().as_bytes());
        for value in parameter.values().map_err(TrainingError::from)? {
            hash.update(&value.to_le_bytes());
        }
    }
    let all = gather_numbers(&[step, data, hash.digest()], ranks)?;
    let kinds = [Difference::Step, Difference::Data, Difference::Weights];
    for (place, what) in kinds.into_iter().enumerate() {
        if let Some(rank) = all.iter().position(|one| one[place] != all[0][place]) {
            return Err(CollectiveError::Different { rank, what }.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use encoder::training::{Kind, embedding};

    use super::*;
    use crate::ranks::{Tcp, TcpConfig};

    /// Gradients of a table, of a matrix that rank 1 alone reaches, and of a bias that nobody does.
    fn reduced(ranks: &dyn Collective) -> Parameters {
        let mut parameters = Parameters::new();
        let mut insert = |name, shape: &[usize], kind| {
            let n = shape.iter().product();
            parameters.insert(name, shape, vec![1.0; n], kind).unwrap()
        };
        let table = insert("table", &[9, 2], Kind::Table);
        let matrix = insert("matrix", &[2, 2], Kind::Matrix);
        insert("bias", &[3], Kind::Plain);
        let rows = if ranks.is_first() {
            &[7, 3][..]
        } else {
            &[3, 8]
        };
        let sum = embedding(&table, rows).unwrap().sum_all().unwrap();
        sum.backward().unwrap();
        if !ranks.is_first() {
            matrix.add_gradient(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        }
        reduce_gradients(&parameters, ranks).unwrap();
        parameters
    }

    #[test]
    fn what_any_rank_has_reached_all_have() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = |rank| TcpConfig {
            rank,
            world_size: 2,
            address: listener.local_addr().unwrap().to_string(),
            fingerprint: [0; 16],
            timeout: Duration::from_secs(60),
            patience: Duration::from_secs(60),
        };
        let (host, guest) = (config(0), config(1));
        std::thread::scope(|scope| {
            let guest = scope.spawn(move || {
                let ranks = Tcp::connect(&guest).unwrap();
                let numbers = gather_numbers(&[u64::MAX - 5, 1 << 40], &ranks).unwrap();
                assert_eq!(numbers, [vec![7, 8, 9], vec![u64::MAX - 5, 1 << 40]]);
                reduced(&ranks)
            });
            let ranks = Tcp::host(listener, &host).unwrap();
            gather_numbers(&[7, 8, 9], &ranks).unwrap();
            let own = reduced(&ranks);
            drop(ranks); // which the other rank waits for
            for parameters in [own, guest.join().unwrap()] {
                let [table, matrix, bias] =
                    ["table", "matrix", "bias"].map(|name| parameters.get(name).unwrap());
                assert_eq!(table.gradient_extent(), Extent::Rows(vec![3, 7, 8]));
                let mut expected = [0.0; 18];
                expected[6..8].fill(2.0);
                expected[14..18].fill(1.0);
                assert_eq!(table.gradient().unwrap().unwrap(), expected);
                assert_eq!(matrix.gradient().unwrap().unwrap(), [1.0, 2.0, 3.0, 4.0]);
                assert_eq!(bias.gradient_extent(), Extent::Nothing);
            }
        });
    }
}
