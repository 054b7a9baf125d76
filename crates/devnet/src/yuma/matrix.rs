//! Vectors and sparse matrices of the epoch: a row holds `(column, value)` pairs, and an entry that is there with the
//! value zero is not the same as one that is absent.
//!
//! Owns the order of sums and divisions, since with fixed point the order decides the last bit.

use super::fixed::Fixed;

/// One row per validator, one entry per neuron that it weighs.
pub(crate) type Sparse = Vec<Row>;
/// `(column, value)` pairs, each column at most once.
pub(crate) type Row = Vec<(usize, Fixed)>;

/// Divides by the sum, unless it is zero.
pub(crate) fn normalise(vector: &mut [Fixed]) {
    let sum = Fixed::sum(vector.iter().copied());
    if sum == Fixed::ZERO {
        return;
    }
    for value in vector {
        *value = value.over(sum);
    }
}

/// Divides each row by its sum, unless that is zero.
pub(crate) fn normalise_rows(matrix: &mut Sparse) {
    for row in matrix {
        let sum = Fixed::sum(row.iter().map(|&(_, value)| value));
        if sum <= Fixed::ZERO {
            continue;
        }
        for (_, value) in row {
            *value = value.over(sum);
        }
    }
}

/// Divides each column by its sum, unless that is zero.
pub(crate) fn normalise_columns(matrix: &mut Sparse, columns: usize) {
    let mut sums = vec![Fixed::ZERO; columns];
    for &(j, value) in matrix.iter().flatten() {
        sums[j] = sums[j].plus(value);
    }
    divide_columns(matrix, &sums);
}

/// Divides each column by its largest entry, unless that is zero.
pub(crate) fn upscale_columns(matrix: &mut Sparse, columns: usize) {
    let mut largest = vec![Fixed::ZERO; columns];
    for &(j, value) in matrix.iter().flatten() {
        largest[j] = largest[j].max(value);
    }
    divide_columns(matrix, &largest);
}

fn divide_columns(matrix: &mut Sparse, by: &[Fixed]) {
    for (j, value) in matrix.iter_mut().flatten() {
        if by[*j] != Fixed::ZERO {
            *value = value.over(by[*j]);
        }
    }
}

/// Each row's sum.
pub(crate) fn row_sums(matrix: &Sparse) -> Vec<Fixed> {
    matrix.iter().map(|row| Fixed::sum(row.iter().map(|&(_, value)| value))).collect()
}

/// `Σ_i vector_i · matrix_ij` for each column j.
pub(crate) fn column_products(matrix: &Sparse, vector: &[Fixed], columns: usize) -> Vec<Fixed> {
    let mut out = vec![Fixed::ZERO; columns];
    for (row, factor) in matrix.iter().zip(vector) {
        for &(j, value) in row {
            out[j] = out[j].plus(factor.times(value));
        }
    }
    out
}

/// `Σ_j matrix_ij · vector_j` for each row i.
pub(crate) fn row_products(matrix: &Sparse, vector: &[Fixed]) -> Vec<Fixed> {
    let product = |&(j, value): &(usize, Fixed)| vector[j].times(value);
    matrix.iter().map(|row| Fixed::sum(row.iter().map(product))).collect()
}

/// Each row times its factor.
pub(crate) fn scale_rows(matrix: &Sparse, factors: &[Fixed]) -> Sparse {
    let scale = |(row, factor): (&Row, &Fixed)| {
        row.iter().map(|&(j, value)| (j, value.times(*factor))).collect()
    };
    matrix.iter().zip(factors).map(scale).collect()
}

/// Cuts each entry at its column's limit; what is cut to zero is absent.
pub(crate) fn clip_columns(matrix: &Sparse, limits: &[Fixed]) -> Sparse {
    let clip = |&(j, value): &(usize, Fixed)| {
        let clipped = value.min(limits[j]);
        (clipped > Fixed::ZERO).then_some((j, clipped))
    };
    matrix.iter().map(|row| row.iter().filter_map(clip).collect()).collect()
}

/// `a + ratio·(b − a)`, entry by entry. At ratio zero and one it is exactly `a` and `b`, with their zeros.
pub(crate) fn interpolate(a: &Sparse, b: &Sparse, columns: usize, ratio: Fixed) -> Sparse {
    if ratio == Fixed::ZERO {
        return a.clone();
    }
    if ratio == Fixed::ONE {
        return b.clone();
    }
    let blend = |(a, b): (&Row, &Row)| {
        let (a, b) = (dense(a, columns), dense(b, columns));
        let mix = |(a, b): (Fixed, Fixed)| a.plus(ratio.times(b.minus(a)));
        positive(a.into_iter().zip(b).map(mix))
    };
    a.iter().zip(b).map(blend).collect()
}

/// `alpha·new + (1 − alpha)·old`, entry by entry; only what is above zero stays.
pub(crate) fn moving_average(new: &Sparse, old: &Sparse, columns: usize, alpha: Fixed) -> Sparse {
    let rest = Fixed::ONE.minus(alpha);
    let blend = |(new, old): (&Row, &Row)| {
        let (new, old) = (dense(new, columns), dense(old, columns));
        let mix = |(new, old): (Fixed, Fixed)| alpha.times(new).plus(rest.times(old));
        positive(new.into_iter().zip(old).map(mix))
    };
    new.iter().zip(old).map(blend).collect()
}

/// A row with all its columns.
pub(crate) fn dense(row: &[(usize, Fixed)], columns: usize) -> Vec<Fixed> {
    let mut out = vec![Fixed::ZERO; columns];
    for &(j, value) in row {
        out[j] = value;
    }
    out
}

fn positive(row: impl Iterator<Item = Fixed>) -> Vec<(usize, Fixed)> {
    row.enumerate().filter(|&(_, value)| value > Fixed::ZERO).collect()
}

/// For each column the score that at least `majority` of the stake gives or exceeds.
pub(crate) fn weighted_median_columns(
    stake: &[Fixed],
    matrix: &Sparse,
    columns: usize,
    majority: Fixed,
) -> Vec<Fixed> {
    let rows = || stake.iter().zip(matrix).filter(|(stake, _)| **stake > Fixed::ZERO);
    let weighed: Vec<Fixed> = rows().map(|(stake, _)| *stake).collect();
    let sum = Fixed::sum(weighed.iter().copied());
    let mut scores = vec![vec![Fixed::ZERO; weighed.len()]; columns];
    for (k, (_, row)) in rows().enumerate() {
        for &(j, value) in row {
            scores[j][k] = value;
        }
    }
    let minority = sum.minus(majority);
    scores.iter().map(|scores| weighted_median(&weighed, scores, minority, sum)).collect()
}

/// Quick-select by the middle element of what is left.
fn weighted_median(stake: &[Fixed], scores: &[Fixed], minority: Fixed, sum: Fixed) -> Fixed {
    let mut part: Vec<usize> = (0..scores.len()).collect();
    let (mut low, mut high) = (Fixed::ZERO, sum);
    loop {
        match part.as_slice() {
            [] => return Fixed::ZERO,
            [only] => return scores[*only],
            _ => {}
        }
        let pivot = scores[part[part.len() / 2]];
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        let (mut low_stake, mut high_stake) = (Fixed::ZERO, Fixed::ZERO);
        for &at in &part {
            match scores[at].cmp(&pivot) {
                std::cmp::Ordering::Less => {
                    low_stake = low_stake.plus(stake[at]);
                    lower.push(at);
                }
                std::cmp::Ordering::Greater => {
                    high_stake = high_stake.plus(stake[at]);
                    upper.push(at);
                }
                std::cmp::Ordering::Equal => {}
            }
        }
        let (below, above) = (low.plus(low_stake), high.minus(high_stake));
        if below <= minority && minority < above {
            return pivot;
        }
        if minority < below && !lower.is_empty() {
            (part, high) = (lower, below);
        } else if above <= minority && !upper.is_empty() {
            (part, low) = (upper, above);
        } else {
            return Fixed::ZERO;
        }
    }
}

/// Which of the values are among the `k` largest and not zero; of equals the later ones come first.
pub(crate) fn top_nonzero(values: &[Fixed], k: usize) -> Vec<bool> {
    let mut out: Vec<bool> = values.iter().map(|value| *value != Fixed::ZERO).collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&at| values[at]);
    for &at in order.iter().take(values.len().saturating_sub(k)) {
        out[at] = false;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sevenths(values: &[u16]) -> Vec<Fixed> {
        values.iter().map(|&v| Fixed::whole(v)).collect()
    }

    /// A wrong median would let a minority of the stake decide the consensus.
    #[test]
    fn median_needs_the_majority() {
        let stake = [Fixed::proportion(13_107); 5];
        let scores = sevenths(&[5, 1, 4, 2, 3]);
        let sum = Fixed::sum(stake);
        let minority = sum.minus(Fixed::HALF);
        assert_eq!(weighted_median(&stake, &scores, minority, sum), Fixed::whole(3));
        assert_eq!(weighted_median(&[], &[], Fixed::HALF, Fixed::ONE), Fixed::ZERO);
        let same = sevenths(&[7, 7, 7, 7, 7]);
        assert_eq!(weighted_median(&stake, &same, minority, sum), Fixed::whole(7));
    }

    /// A permit for a neuron without stake would give everybody a validator's rights.
    #[test]
    fn permits_go_to_the_largest_stakes() {
        let stake = sevenths(&[0, 3, 1, 3]);
        assert_eq!(top_nonzero(&stake, 8), [false, true, true, true]);
        assert_eq!(top_nonzero(&stake, 2), [false, true, false, true]);
        assert_eq!(top_nonzero(&stake, 1), [false, false, false, true]);
        assert_eq!(top_nonzero(&stake, 0), [false; 4]);
    }
}
