//! `cuda/gelu.cuh`: its polynomial, evaluated as the kernels do, over all of float32.

/// The coefficients of q in the source, the highest power first.
fn coefficients() -> Vec<f32> {
    let source = include_str!("../../../cuda/gelu.cuh");
    let number = |text: &str| {
        let text = text.trim_end_matches(';').trim_end_matches(')');
        text.trim_end_matches('f').parse().expect("a float32")
    };
    let lines = source.lines().map(str::trim);
    let found = lines.filter_map(|line| match line.strip_prefix("q = __fmaf_rn(q, a, ") {
        Some(rest) => Some(number(rest)),
        None => line.strip_prefix("float q = ").map(number),
    });
    found.collect()
}

/// Φ: by its Taylor series (Marsaglia 2004), and where that cancels by the continued fraction of the tail.
pub fn normal_cdf(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if x < -3.0 {
        let fraction = (1..200).rev().fold(-x, |below, i| -x + f64::from(i) / below);
        return density / fraction;
    }
    if x > 3.0 {
        return 1.0 - normal_cdf(-x);
    }
    let (mut sum, mut term, mut odd) = (x, x, 1.0);
    while term != 0.0 && sum + term != sum {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + density * sum
}

/// Of GELU: relative where x ≥ -6, and absolute below.
pub const ERROR: (f64, f64) = (6e-6, 1e-13);

/// The bits of `a` go up in steps: every exponent, with thousands of mantissas where Φ(-a) is neither ½ nor 0.
#[test]
fn gelu_is_within_its_bound_for_every_size() {
    let coefficients = coefficients();
    assert_eq!(coefficients.len(), 8, "{coefficients:?}");
    let q = |a: f32| {
        let horner = |q: f32, &c: &f32| q.mul_add(a, c);
        coefficients[1..].iter().fold(coefficients[0], horner)
    };
    let dense = 2_f32.powi(-14).to_bits()..16_f32.to_bits();
    let step = if super::exhaustive() { 37 } else { 1009 };
    let sparse = (0..f32::INFINITY.to_bits()).step_by(104_729);
    for bits in dense.step_by(step).chain(sparse) {
        let a = f32::from_bits(bits);
        let power = q(a);
        // ex2.approx.ftz: within 2 ulp, and subnormal results are 0.
        let near = f64::from(power).exp2();
        let near = if near < f64::from(f32::MIN_POSITIVE) {
            0.0
        } else {
            near
        };
        let ex2 = near * 2_f64.powi(-22);
        let (wanted, a) = (normal_cdf(-f64::from(a)), f64::from(a));
        let allowed = match a <= 6.0 {
            true => ERROR.0 * wanted,
            false => ERROR.1 / a,
        };
        assert!(
            (near - wanted).abs() + ex2 <= allowed,
            "Φ(-{a}) is {near}, not {wanted}"
        );
    }
    assert_eq!(q(f32::MAX), f32::NEG_INFINITY);
}
