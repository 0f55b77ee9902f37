//! The inner loop: one vector's codes against those of many nodes.

use compute::{Level, Simd};

use super::codes::{Codes, Header, Line, Probe};

/// The instructions that sum the products. All give the same similarities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

/// Nodes compared at a time.
const TILE: usize = 4;

impl Kernel {
    pub fn of(simd: Simd) -> Self {
        match simd.level() {
            #[cfg(target_arch = "x86_64")]
            _ if simd.has_vnni() => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx2 => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// Replaces `similarities` by the estimate for each node.
    ///
    /// # Panics
    /// When there is no such node.
    #[inline]
    pub fn compare(
        self,
        codes: Codes<'_>,
        probe: &Probe,
        nodes: &[u32],
        similarities: &mut Vec<f32>,
    ) {
        assert_eq!(
            probe.lines.len(),
            codes.per_record(),
            "a probe has the shape of the records"
        );
        similarities.clear();
        match self {
            Self::Portable => each_tile(codes, probe, nodes, similarities, portable),
            // SAFETY: `of` chose the kernel for a machine that has its instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86_64::avx2(codes, probe, nodes, similarities) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => unsafe { x86_64::vnni(codes, probe, nodes, similarities) },
        }
    }
}

/// Appends the similarities, tile by tile; the last tile repeats its last node.
#[inline(always)]
fn each_tile<'a>(
    codes: Codes<'a>,
    probe: &Probe,
    nodes: &[u32],
    similarities: &mut Vec<f32>,
    sums: impl Fn(&Probe, [&'a [Line]; TILE]) -> [i32; TILE],
) {
    for tile in nodes.chunks(TILE) {
        let mut records = [codes.record(tile[0]); TILE];
        for i in 1..TILE {
            records[i] = codes.record(tile[i.min(tile.len() - 1)]);
        }
        let sums = sums(probe, records);
        let mut found = [0.0; TILE];
        for i in 0..TILE {
            let (x, q) = (Header::of(records[i]), probe.header);
            let sum = sums[i].wrapping_add(probe.start);
            found[i] = x.step * q.step * sum as f32 + x.lift * q.lift - x.offset - q.offset;
        }
        similarities.extend_from_slice(&found[..tile.len()]);
    }
}

fn portable(probe: &Probe, records: [&[Line]; TILE]) -> [i32; TILE] {
    records.map(|record| {
        let lines = record.iter().zip(&probe.lines);
        let products = lines.flat_map(|(x, q)| x.0.iter().zip(&q.0));
        products
            .map(|(&x, &q)| i32::from(x) * i32::from(q.cast_signed()))
            .sum()
    })
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    use super::super::codes::{Codes, Line, Probe};
    use super::{TILE, each_tile};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) fn vnni(
        codes: Codes<'_>,
        probe: &Probe,
        nodes: &[u32],
        similarities: &mut Vec<f32>,
    ) {
        each_tile(
            codes,
            probe,
            nodes,
            similarities,
            #[inline(always)]
            |probe, records| vnni_tile(probe, records),
        );
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn vnni_tile(probe: &Probe, records: [&[Line]; TILE]) -> [i32; TILE] {
        let mut sums = [_mm512_setzero_si512(); TILE];
        let n_lines = probe.lines.len();
        let records = records.map(|record| &record[..n_lines]);
        for (i, query) in probe.lines.iter().enumerate() {
            // SAFETY: a line has 64 bytes.
            let load = |line: &Line| unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) };
            let query = load(query);
            for (sum, record) in sums.iter_mut().zip(records) {
                *sum = _mm512_dpbusd_epi32(*sum, load(&record[i]), query);
            }
        }
        let [a, b, c, d] = sums.map(|sum| {
            _mm256_add_epi32(
                _mm512_castsi512_si256(sum),
                _mm512_extracti64x4_epi64::<1>(sum),
            )
        });
        totals([a, b, c, d])
    }

    /// The sum of each register's lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn totals([a, b, c, d]: [__m256i; TILE]) -> [i32; TILE] {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let four = _mm_add_epi32(
            _mm256_castsi256_si128(pairs),
            _mm256_extracti128_si256::<1>(pairs),
        );
        // SAFETY: 16 bytes of integers are 16 bytes of integers.
        unsafe { std::mem::transmute(four) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(
        codes: Codes<'_>,
        probe: &Probe,
        nodes: &[u32],
        similarities: &mut Vec<f32>,
    ) {
        each_tile(
            codes,
            probe,
            nodes,
            similarities,
            #[inline(always)]
            |probe, records| avx2_tile(probe, records),
        );
    }

    /// Products of 8 bits as of 16, since `vpmaddubsw` would saturate.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn avx2_tile(probe: &Probe, records: [&[Line]; TILE]) -> [i32; TILE] {
        let mut sums = [_mm256_setzero_si256(); TILE];
        let n_lines = probe.lines.len();
        let records = records.map(|record| &record[..n_lines]);
        for (i, query) in probe.lines.iter().enumerate() {
            for at in [0, 16, 32, 48] {
                // SAFETY: 16 bytes follow in a line of 64.
                let load = |line: &Line| unsafe { _mm_loadu_si128(line.0.as_ptr().add(at).cast()) };
                let query = _mm256_cvtepi8_epi16(load(query));
                for (sum, record) in sums.iter_mut().zip(records) {
                    let codes = _mm256_cvtepu8_epi16(load(&record[i]));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(codes, query));
                }
            }
        }
        totals(sums)
    }
}
