//! Readings, and the table that is made of them.

use std::fmt;

/// One figure, taken once.
#[derive(Clone, Debug)]
pub struct Reading {
    pub name: String,
    pub unit: &'static str,
    pub value: f64,
    /// What bounds it, read beside it, in the same unit.
    pub limit: Option<(&'static str, f64)>,
    pub target: Option<Target>,
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    Under(f64),
    /// So much of its limit, from 0 to 1.
    OfLimit(f64),
}

impl Reading {
    pub fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, limit: None, target: None }
    }

    pub fn beside(self, what: &'static str, limit: f64) -> Self {
        Self { limit: Some((what, limit)), ..self }
    }

    pub fn target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }
}

/// All readings, by figure, in the order of the first of each.
#[derive(Default)]
pub struct Report {
    figures: Vec<Vec<Reading>>,
}

impl Report {
    /// Adds the readings of one round, each of a figure of its own.
    pub fn add(&mut self, readings: Vec<Reading>) {
        for (number, reading) in readings.iter().enumerate() {
            let twice = readings[..number].iter().any(|other| other.name == reading.name);
            assert!(!twice, "there are two figures `{}`", reading.name);
        }
        for reading in readings {
            match self.figures.iter_mut().find(|figure| figure[0].name == reading.name) {
                Some(figure) => figure.push(reading),
                None => self.figures.push(vec![reading]),
            }
        }
    }
}

/// The middle one; of an even number the lower of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The smallest value that at least this part of all, from 0 to 1, does not exceed.
pub fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * part).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | median | from .. to | limit | of limit | target | |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | --- |")?;
        for figure in &self.figures {
            let first = &figure[0];
            let value = median(figure.iter().map(|reading| reading.value));
            let least = figure.iter().map(|reading| reading.value).fold(f64::INFINITY, f64::min);
            let most = figure.iter().map(|reading| reading.value).fold(0.0, f64::max);
            write!(
                f,
                "| {} | {} {} | {} .. {} ",
                first.name,
                number(value),
                first.unit,
                number(least),
                number(most)
            )?;
            // Each reading against the limit that was read with it.
            let limits = figure.iter().filter_map(|reading| Some((reading.value, reading.limit?.1)));
            let ratio = median(limits.clone().map(|(value, limit)| value / limit));
            match first.limit {
                Some((what, _)) => {
                    let limit = median(limits.map(|(_, limit)| limit));
                    write!(f, "| {} {what} | {} ", number(limit), share(ratio))?;
                }
                None => write!(f, "| | ")?,
            }
            match first.target {
                Some(target) => {
                    let (text, met) = match target {
                        Target::AtLeast(least) => (format!("≥ {}", number(least)), value >= least),
                        Target::Under(most) => (format!("< {}", number(most)), value < most),
                        Target::OfLimit(part) => (format!("≥ {}", share(part)), ratio >= part),
                    };
                    writeln!(f, "| {text} | {} |", if met { "met" } else { "MISSED" })?;
                }
                None => writeln!(f, "| | |")?,
            }
        }
        Ok(())
    }
}

fn share(ratio: f64) -> String {
    match ratio < 10.0 {
        true => format!("{:.0} %", ratio * 100.0),
        false => format!("{ratio:.0} x"),
    }
}

/// With three digits that count, and thousands set apart.
fn number(value: f64) -> String {
    if value < 100.0 {
        let digits = if value < 1.0 { 3 } else { usize::from(value < 10.0) + 1 };
        return format!("{value:.digits$}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
