//! How a rank is connected with the others: `--comm-timeout`, and what its launcher says.

use std::path::Path;
use std::time::Duration;

use perilune_runtime::comm::Communicator;
use perilune_runtime::comm::bootstrap::{Job, Settings};

use crate::exit::{Exit, Failure};
use crate::launch;
use crate::pipeline;

/// Arguments of every command that runs on ranks.
#[derive(Debug, clap::Args)]
pub(crate) struct CommArgs {
    /// How long a collective waits for its ranks (60, or what `launch --timeout` says)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    comm_timeout: Option<Duration>,
}

impl CommArgs {
    /// Connects this process with the other ranks of its job, recording into `flight`.
    ///
    /// # Errors
    /// A job that cannot come together.
    pub(crate) fn connect(&self, flight: &Path) -> Result<Box<dyn Communicator>, Failure> {
        let mut settings = Settings::new(flight);
        let given = std::env::var(launch::TIMEOUT).ok();
        let given = given.map(|text| seconds(&text)).transpose().map_err(|what| {
            Failure::new(Exit::Environment, format!("`{}`: {what}", launch::TIMEOUT))
        })?;
        if let Some(timeout) = self.comm_timeout.or(given) {
            settings.timeout = timeout;
        }
        let job = Job::from_environment().and_then(|job| job.connect(&settings));
        job.map_err(|error| pipeline::comm(&error))
    }
}

/// A positive number of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let usable = |time: &Duration| !time.is_zero() && *time <= Duration::from_secs(86_400);
    seconds
        .filter(usable)
        .ok_or_else(|| "expected seconds, more than 0 and at most a day".to_owned())
}
