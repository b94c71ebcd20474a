//! Poisson pasting (Pérez, Gangnet & Blake 2003): a rectangle whose differences are a patch's and whose border is the image's.
//!
//! In the inside f of an m×n rectangle, 4·f(p) − Σ f(q) = Σ v(p, q) over the four neighbours q, with f known on the border. The
//! discrete sine transform makes the equations diagonal, so they are solved at once, in f64: the residual is that of rounding,
//! below 1e-10 levels. OpenCV's `seamlessClone` does the same.

use std::f64::consts::PI;

use rustdct::DctPlanner;

/// Rows and columns of a rectangle, its border included.
pub(super) type Sides = [usize; 2];

/// The image's rectangle `under` with `patch` pasted into its inside, both (rows, columns), grey levels. A patch's difference counts,
/// or with `mixed` the larger of the patch's and the image's.
///
/// # Panics
/// When a rectangle has fewer than three rows or columns, or the lengths do not fit.
pub(super) fn pasted(under: &[f64], patch: &[f64], [rows, columns]: Sides, mixed: bool) -> Vec<f64> {
    let (m, n) = (rows - 2, columns - 2);
    let mut right = vec![0.0; m * n];
    for (y, row) in right.chunks_exact_mut(n).enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            let at = (y + 1) * columns + x + 1;
            let border = [(y == 0, at - columns), (y == m - 1, at + columns), (x == 0, at - 1), (x == n - 1, at + 1)];
            for (known, other) in border {
                let (ours, theirs) = (under[at] - under[other], patch[at] - patch[other]);
                *value += if mixed && ours.abs() > theirs.abs() { ours } else { theirs };
                *value += if known { under[other] } else { 0.0 };
            }
        }
    }
    let inside = solved(right, m, n);
    let mut made = under.to_vec();
    for (y, row) in inside.chunks_exact(n).enumerate() {
        made[(y + 1) * columns + 1..][..n].copy_from_slice(row);
    }
    made
}

/// The solution of 4·f(p) − Σ f(q) = `right`(p), (m, n), f being 0 beyond.
fn solved(right: Vec<f64>, m: usize, n: usize) -> Vec<f64> {
    let mut planner = DctPlanner::new();
    let (along_rows, along_columns) = (planner.plan_dst1(n), planner.plan_dst1(m));
    let transform = |mut values: Vec<f64>| {
        values.chunks_exact_mut(n).for_each(|row| along_rows.process_dst1(row));
        let mut turned = transposed(&values, m, n);
        turned.chunks_exact_mut(m).for_each(|column| along_columns.process_dst1(column));
        transposed(&turned, n, m)
    };
    let value = |at: usize, length: usize| 2.0 - 2.0 * (PI * (at + 1) as f64 / (length + 1) as f64).cos();
    // A transform done twice multiplies by (m + 1)/2 · (n + 1)/2.
    let twice = ((m + 1) * (n + 1)) as f64 / 4.0;
    let columns: Vec<f64> = (0..n).map(|at| value(at, n)).collect();
    let mut waves = transform(right);
    for (y, row) in waves.chunks_exact_mut(n).enumerate() {
        let own = value(y, m);
        row.iter_mut().zip(&columns).for_each(|(wave, other)| *wave /= (own + other) * twice);
    }
    transform(waves)
}

fn transposed(values: &[f64], m: usize, n: usize) -> Vec<f64> {
    (0..n).flat_map(|x| (0..m).map(move |y| values[y * n + x])).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::golden, *};

    #[test]
    fn pastes_are_those_of_a_sparse_solver() {
        let cases = golden("poisson");
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let of = |key: &str| -> Vec<f64> { serde_json::from_value(case[key].clone()).unwrap() };
            let sides: Sides = serde_json::from_value(case["sides"].clone()).unwrap();
            let made = pasted(&of("under"), &of("patch"), sides, case["mixed"].as_bool().unwrap());
            let worst = made.iter().zip(of("expected")).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "{sides:?}: {worst}");
        }
    }

    #[test]
    fn the_equations_hold_to_rounding() {
        for sides in [[3, 3], [3, 90], [104, 104], [77, 31]] {
            let [rows, columns] = sides;
            let level = |at: usize, factor: usize| ((at * factor + at * at % 91) % 256) as f64;
            let under: Vec<f64> = (0..rows * columns).map(|at| level(at, 7)).collect();
            let patch: Vec<f64> = (0..rows * columns).map(|at| level(at, 13)).collect();
            for mixed in [false, true] {
                let made = pasted(&under, &patch, sides, mixed);
                let mut worst = 0.0_f64;
                for at in 0..rows * columns {
                    let (y, x) = (at / columns, at % columns);
                    if y == 0 || x == 0 || y == rows - 1 || x == columns - 1 {
                        assert_eq!(made[at], under[at]);
                        continue;
                    }
                    let mut residual = 0.0;
                    for other in [at - 1, at + 1, at - columns, at + columns] {
                        let (ours, theirs) = (under[at] - under[other], patch[at] - patch[other]);
                        let wanted = if mixed && ours.abs() > theirs.abs() { ours } else { theirs };
                        residual += made[at] - made[other] - wanted;
                    }
                    worst = worst.max(residual.abs());
                }
                assert!(worst < 1e-10, "{sides:?}: {worst}");
            }
        }
    }
}
