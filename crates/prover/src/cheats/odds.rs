//! Whether a count of refusals fits a predicted rate.

/// Whether `caught` of `sessions` fits a rate of `rate`: a count this far out, on its side, would be seen in fewer than
/// `alarm / 2` of all trials if the rate were right.
#[must_use]
pub fn fits(caught: u32, sessions: u32, rate: f64, alarm: f64) -> bool {
    if caught > sessions {
        return false;
    }
    let at_most: f64 = (0..=caught).map(|count| exactly(count, sessions, rate)).sum();
    let at_least: f64 = (caught..=sessions).map(|count| exactly(count, sessions, rate)).sum();
    at_most >= alarm / 2.0 && at_least >= alarm / 2.0
}

/// The binomial probability of exactly so many.
fn exactly(count: u32, sessions: u32, rate: f64) -> f64 {
    if rate <= 0.0 || rate >= 1.0 {
        let sure = if rate >= 1.0 { sessions } else { 0 };
        return if count == sure { 1.0 } else { 0.0 };
    }
    let ways: f64 =
        (0..count).map(|at| f64::from(sessions - at).ln() - f64::from(count - at).ln()).sum();
    let missed = f64::from(sessions - count);
    (ways + f64::from(count) * rate.ln() + missed * (-rate).ln_1p()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bound that lets everything through would prove no rate.
    #[test]
    fn only_likely_counts_fit() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(exactly(2, 4, 0.5), 0.375) && near(exactly(0, 3, 0.25), 0.421_875));
        assert!(fits(50, 100, 0.5, 1e-9) && fits(75, 100, 0.5, 1e-9));
        assert!(!fits(90, 100, 0.5, 1e-9) && !fits(10, 100, 0.5, 1e-9));
        assert!(fits(7, 7, 1.0, 1e-9) && !fits(6, 7, 1.0, 1e-9));
        assert!(fits(0, 7, 0.0, 1e-9) && !fits(1, 7, 0.0, 1e-9) && !fits(8, 7, 1.0, 1e-9));
    }
}
