/// Sentences of the given lengths, whose tokens are numbered through the document.
pub fn sentences(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut ids = 0..;
    let lengths = lengths.iter();
    lengths.map(|&n| ids.by_ref().take(n).collect()).collect()
}
