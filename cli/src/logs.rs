//! What the command says while it works: on standard error, in lines for people or in JSON objects for machines.

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// What a line of the log looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Time, level, message and fields.
    #[default]
    Text,
    /// A JSON object with the same.
    Json,
}

/// Starts to log. `TANDEM_LOG` says what: a level (`debug`), or levels of parts (`info,tandem_backends=trace`).
pub fn start(format: LogFormat) {
    let wish = std::env::var("TANDEM_LOG").unwrap_or_default();
    let parsed: Result<Targets, _> = wish.parse();
    let filter = match &parsed {
        Ok(targets) if !wish.is_empty() => targets.clone(),
        _ => Targets::new().with_default(LevelFilter::INFO),
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    if let Err(error) = parsed {
        tracing::warn!("TANDEM_LOG={wish:?} is neither a level nor a list of them: {error}; `info` is in force");
    }
}
