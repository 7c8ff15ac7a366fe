//! Which allocations a profile looks at, and how many each one stands for.
//!
//! Every byte that is allocated is chosen with the same small chance, independently of all others; an allocation is
//! sampled if one of its bytes is. The distance from one chosen byte to the next is then exponential, and forgets where
//! it began: counting can start anywhere, and several counters side by side, one for each size, choose as one counter
//! over all bytes would. An allocation of `size` bytes is sampled with the chance [`chance`], so it stands for
//! 1 / [`chance`] of its like. (Go: `nextSample`, `scaleHeapSample`; tcmalloc: `Sampler`.)
//!
//! The functions are computed here, since the core does not have the mathematical library.

use super::random::Random;

/// The distance from one chosen byte to the next, in bytes: exponential, `mean` on average.
pub fn distance(random: &mut Random, mean: f64) -> f64 {
    // 53 random bits, as a number above zero and at most one.
    let uniform = ((random.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -ln(uniform) * mean
}

/// The number of allocations of `size` bytes up to and including the next that is sampled.
pub fn allocations(random: &mut Random, mean: f64, size: usize) -> u64 {
    // Beyond this number of allocations nobody will get.
    const MOST: f64 = (1u64 << 48) as f64;
    (distance(random, mean) / size as f64).min(MOST) as u64 + 1
}

/// The chance that an allocation of `size` bytes is sampled, 1 − exp(−`size` / `mean`): above zero, at most one.
pub fn chance(size: usize, mean: f64) -> f64 {
    let mut x = size.max(1) as f64 / mean;
    if x > 40.0 {
        return 1.0;
    }
    let mut halvings = 0;
    while x > 1.0 / 32.0 {
        x /= 2.0;
        halvings += 1;
    }
    // 1 − exp(−x) for small x; and from x to 2x: 1 − (1 − y)² = y (2 − y).
    let mut y = x * (1.0 - x / 2.0 * (1.0 - x / 3.0 * (1.0 - x / 4.0 * (1.0 - x / 5.0 * (1.0 - x / 6.0)))));
    for _ in 0..halvings {
        y *= 2.0 - y;
    }
    y
}

/// The natural logarithm of a positive, normal number.
fn ln(x: f64) -> f64 {
    const MANTISSA: u32 = 52;
    const BIAS: i64 = 1023;
    let bits = x.to_bits();
    let mut exponent = (bits >> MANTISSA) as i64 - BIAS;
    let mut m = f64::from_bits(bits & ((1 << MANTISSA) - 1) | (BIAS as u64) << MANTISSA);
    if m > core::f64::consts::SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    // The series of the inverse hyperbolic tangent: for these m, |t| < 0.172, and each term is 1/33 of the one before.
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * core::f64::consts::LN_2 + 2.0 * t * series
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn functions_are_those_of_the_mathematical_library() {
        for x in [1e-16, 0.001, 0.5, 0.7, 0.9999, 1.0, 1.41, 1.42, 7.0, 1e9] {
            assert!((ln(x) - f64::ln(x)).abs() <= 1e-12 * f64::ln(x).abs().max(1.0), "ln {x}");
        }
        for size in [1usize, 16, 4096, 100_000, 524_288, 1 << 22, 1 << 26] {
            let right = -f64::exp_m1(-(size as f64) / 524_288.0);
            assert!((chance(size, 524_288.0) - right).abs() <= 1e-11 * right, "{size}");
        }
        assert!(chance(0, 1e9) > 0.0);
    }

    /// The mean and the spread of distances; the number of allocations agrees with the chance.
    #[test]
    fn distances_are_exponential() {
        const N: usize = 200_000;
        let mut random = Random::new(7);
        let distances: Vec<f64> = (0..N).map(|_| distance(&mut random, 1000.0)).collect();
        let mean = distances.iter().sum::<f64>() / N as f64;
        let variance = distances.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64;
        assert!((mean - 1000.0).abs() < 15.0, "{mean}");
        assert!((variance.sqrt() - 1000.0).abs() < 25.0, "{}", variance.sqrt());
        for size in [10, 1000, 5000] {
            let total: u64 = (0..N).map(|_| allocations(&mut random, 1000.0, size)).sum();
            let rate = N as f64 / total as f64;
            assert!((rate / chance(size, 1000.0) - 1.0).abs() < 0.02, "{size}: {rate}");
        }
    }
}
