//! Specifications of tables of sensor readings.

use super::options::Options;
use super::{SpecError, value};

/// Options that only tables have.
pub(super) const OPTIONS: [&str; 10] = [
    "window",
    "stride",
    "wide",
    "label",
    "group",
    "groups",
    "columns",
    "rate_hz",
    "header",
    "separator",
];
/// Rows in a window unless told: 2.56 s at the 50 Hz of most phones.
const DEFAULT_WINDOW: usize = 128;
const DEFAULT_LABEL: &str = "label";
/// Longest window and stride, rows.
const MAX_ROWS: usize = 1_000_000;
/// Most channels of a wide table.
const MAX_CHANNELS: usize = 65_536;
/// Slowest and fastest sensor: one sample in eleven days, and ten million a second.
const LEAST_RATE_HZ: f64 = 1e-6;
const MAX_RATE_HZ: f64 = 1e7;

/// How a table of sensor readings is laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct CsvSpec {
    /// What a row is.
    pub rows: CsvRows,
    /// Column of the label. Columns are named by their title, or by their number from 1.
    pub label: String,
    /// Column that tells recordings (people, devices) apart: windows do not cross them, and each goes
    /// whole to one part.
    pub group: Option<String>,
    /// Groups kept; `None` keeps all.
    pub groups: Option<Vec<String>>,
    /// Columns of values, in this order; `None` takes all but label and group.
    pub columns: Option<Vec<String>>,
    /// Rows per second, where a row is a time step.
    pub rate_hz: Option<f64>,
    /// Whether the first row has titles.
    pub header: bool,
    /// What stands between cells.
    pub separator: u8,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsvRows {
    /// A time step, with a value per channel.
    Steps {
        /// Rows in a window.
        window: usize,
        /// From one window's first row to the next one's.
        stride: usize,
    },
    /// A whole window: all values of the first channel, then those of the next.
    Windows {
        /// Channels.
        channels: usize,
    },
}

impl Default for CsvSpec {
    fn default() -> Self {
        Self {
            rows: CsvRows::Steps {
                window: DEFAULT_WINDOW,
                stride: DEFAULT_WINDOW,
            },
            label: DEFAULT_LABEL.to_owned(),
            group: None,
            groups: None,
            columns: None,
            rate_hz: None,
            header: true,
            separator: b',',
        }
    }
}

pub(super) fn parse(options: &mut Options) -> Result<CsvSpec, SpecError> {
    let rows = match options.take("wide") {
        None => {
            let window = options.number("window", DEFAULT_WINDOW, 1..=MAX_ROWS)?;
            let stride = options.number("stride", window, 1..=MAX_ROWS)?;
            CsvRows::Steps { window, stride }
        }
        Some(channels) => {
            for other in ["window", "stride", "rate_hz"] {
                if options.take(other).is_some() {
                    return Err(SpecError::Exclusive {
                        a: "wide",
                        b: other,
                    });
                }
            }
            let fits = channels.parse().ok();
            let fits = fits.filter(|c| (1..=MAX_CHANNELS).contains(c));
            let want = format!("the number of channels in a row, 1 to {MAX_CHANNELS}");
            CsvRows::Windows {
                channels: fits.ok_or_else(|| value("wide", &channels, &want))?,
            }
        }
    };
    let rate_hz = match options.number("rate_hz", 0.0, LEAST_RATE_HZ..=MAX_RATE_HZ)? {
        0.0 => None,
        rate => Some(rate),
    };
    let label = named(options, "label")?.unwrap_or_else(|| DEFAULT_LABEL.to_owned());
    let group = named(options, "group")?;
    let groups = list(options, "groups")?;
    if let (Some(groups), None) = (&groups, &group) {
        let want = "`group=COLUMN` beside it, which says where groups are named";
        return Err(value("groups", &groups.join(","), want));
    }
    let columns = list(options, "columns")?;
    let header = match options.take("header").as_deref() {
        None | Some("yes") => true,
        Some("no") => false,
        Some(other) => return Err(value("header", other, "`yes` or `no`")),
    };
    let separator = match options.take("separator").as_deref() {
        None | Some("comma") => b',',
        Some("semicolon") => b';',
        Some("tab") => b'\t',
        Some(other) => {
            return Err(value("separator", other, "`comma`, `semicolon` or `tab`"));
        }
    };
    Ok(CsvSpec {
        rows,
        label,
        group,
        groups,
        columns,
        rate_hz,
        header,
        separator,
    })
}

fn named(options: &mut Options, option: &str) -> Result<Option<String>, SpecError> {
    match options.take(option) {
        Some(name) if name.trim().is_empty() => {
            Err(value(option, &name, "the title or number of a column"))
        }
        Some(name) => Ok(Some(name.trim().to_owned())),
        None => Ok(None),
    }
}

fn list(options: &mut Options, option: &str) -> Result<Option<Vec<String>>, SpecError> {
    let Some(text) = options.take(option) else {
        return Ok(None);
    };
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if name.is_empty() || names.iter().any(|n| n == name) {
            return Err(value(option, &text, "different names joined by commas"));
        }
        names.push(name.to_owned());
    }
    Ok(Some(names))
}

/// The options that differ from what is taken without them.
pub(super) fn print(spec: &CsvSpec, options: &mut Vec<String>) {
    match spec.rows {
        CsvRows::Windows { channels } => options.push(format!("wide={channels}")),
        CsvRows::Steps { window, stride } => {
            if window != DEFAULT_WINDOW {
                options.push(format!("window={window}"));
            }
            if stride != window {
                options.push(format!("stride={stride}"));
            }
        }
    }
    if spec.label != DEFAULT_LABEL {
        options.push(format!("label={}", spec.label));
    }
    if let Some(group) = &spec.group {
        options.push(format!("group={group}"));
    }
    if let Some(groups) = &spec.groups {
        options.push(format!("groups={}", groups.join(",")));
    }
    if let Some(columns) = &spec.columns {
        options.push(format!("columns={}", columns.join(",")));
    }
    if let Some(rate) = spec.rate_hz {
        options.push(format!("rate_hz={rate}"));
    }
    if !spec.header {
        options.push("header=no".to_owned());
    }
    match spec.separator {
        b';' => options.push("separator=semicolon".to_owned()),
        b'\t' => options.push("separator=tab".to_owned()),
        _ => {}
    }
}
