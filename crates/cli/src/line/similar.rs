//! The name that was meant by a mistyped one.

/// The end of a refusal of `typed`: the name that was meant, with `dashes` before it, if one of `names` is near. Of those with
/// at most two letters more, less, other or exchanged, and fewer than half of them, it is the nearest.
pub(super) fn hint(names: impl Iterator<Item = &'static str>, typed: &str, dashes: &str) -> String {
    let fits = |name: &&str| name.len().abs_diff(typed.len()) <= 2;
    let near = names.filter(fits).map(|name| (distance(typed, name), name));
    let close = |(distance, name): &(usize, &str)| *distance <= 2 && distance * 2 < name.len();
    let meant = near.filter(close).min_by_key(|(distance, _)| *distance);
    meant.map_or_else(String::new, |(_, name)| format!("; did you mean {dashes}{name}?"))
}

/// How many bytes must be inserted, removed, replaced, or exchanged with their neighbour to make one name the other
/// (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}
