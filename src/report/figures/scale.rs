//! What a histogram's axis shows of scores: the scores themselves, or what pulls crowded ones apart.

/// How scores lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// As they are.
    Plain,
    /// log10 of positive scores.
    Magnitude,
    /// asinh((score − centre) / unit): plain around the centre, logarithmic away from it, to both sides.
    AwayFrom {
        /// The median of the ID scores.
        centre: f64,
        /// Half of the range that the middle 90 % of the ID scores span; positive.
        unit: f64,
    },
}

/// Labelled places of an axis, about.
const TICKS: usize = 5;

impl Scale {
    /// What these scores allow beside the plain axis.
    pub fn others<'a>(id: &'a [f64], ood: impl Iterator<Item = &'a f64>) -> Vec<Self> {
        let mut sorted = id.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantile =
            |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize).copied();
        let (low, centre, high) = (quantile(0.05), quantile(0.5), quantile(0.95));
        let away = low.zip(high).map(|(low, high)| (high - low) / 2.0).zip(centre);
        let away = away.filter(|(unit, _)| *unit > 0.0).map(|(unit, centre)| Self::AwayFrom { centre, unit });
        let positive = id.iter().chain(ood).all(|score| *score > 0.0);
        positive.then_some(Self::Magnitude).into_iter().chain(away).collect()
    }

    /// Where a score lies along the axis.
    pub fn along(self, score: f64) -> f64 {
        match self {
            Self::Plain => score,
            Self::Magnitude => score.log10(),
            Self::AwayFrom { centre, unit } => ((score - centre) / unit).asinh(),
        }
    }

    /// What stands below the axis.
    pub fn words(self) -> &'static str {
        match self {
            Self::Plain => "score",
            Self::Magnitude => "log10 of the score",
            Self::AwayFrom { .. } => "score, log scale away from the ID median",
        }
    }

    /// Labelled places of the axis over `range`; none where it shows its own numbers, of which round ones are found.
    pub fn ticks(self, (low, high): (f64, f64)) -> Vec<(f64, String)> {
        let Self::AwayFrom { centre, unit } = self else { return Vec::new() };
        let score = |place: f64| centre + unit * place.sinh();
        let step = (high - low) / TICKS as f64;
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for index in 0..=TICKS {
            let place = low + step * index as f64;
            // Rounded to the power of ten that moves it by less than half of the way to the next.
            let digit = 10_f64.powf((score(place + step / 4.0) - score(place - step / 4.0)).log10().floor());
            let rounded = (score(place) / digit).round() * digit;
            let tick = (self.along(rounded), label(rounded, digit));
            if (low..=high).contains(&tick.0) && ticks.last().is_none_or(|last| last.1 != tick.1) {
                ticks.push(tick);
            }
        }
        ticks
    }
}

/// A multiple of `digit`, a power of ten.
fn label(score: f64, digit: f64) -> String {
    if score.abs() >= 1e5 {
        return format!("{score:.0e}");
    }
    let decimals = (-digit.log10().round()).clamp(0.0, 6.0) as usize;
    // Not "-0".
    format!("{:.decimals$}", if score.abs() < digit / 2.0 { 0.0 } else { score })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn away_from_the_centre_ticks_are_scores() {
        let scale = Scale::AwayFrom { centre: 600.0, unit: 150.0 };
        let range = (scale.along(300.0), scale.along(390_000.0));
        let ticks = scale.ticks(range);
        let labels: Vec<&str> = ticks.iter().map(|tick| tick.1.as_str()).collect();
        assert_eq!(labels, ["300", "700", "2000", "8000", "50000"]);
        for (place, label) in &ticks {
            assert!((scale.along(label.parse().unwrap()) - place).abs() < 1e-9);
        }
        assert_eq!(Scale::Plain.ticks((0.0, 1.0)), []);
    }

    #[test]
    fn only_positive_scores_have_a_magnitude_and_only_scores_that_differ_a_spread() {
        assert_eq!(Scale::others(&[1.0, 2.0], [3.0].iter()).len(), 2);
        assert_eq!(Scale::others(&[1.0, 2.0], [0.0].iter()), [Scale::AwayFrom { centre: 2.0, unit: 0.5 }]);
        assert_eq!(Scale::others(&[2.0; 3], [-1.0].iter()), []);
        assert_eq!(Scale::others(&[], [].iter()), [Scale::Magnitude]);
    }
}
