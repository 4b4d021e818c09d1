//! Throughput by `iperf3`: its clients, and what they report.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use serde::{Deserialize, Serialize};

use crate::{Host, Lab, LabError, Process, program};

/// What a test sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TCP as fast as it goes.
    Tcp,
    /// UDP at this rate, in bits a second and stream.
    Udp(u64),
}

/// A test to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// What it sends.
    pub kind: Kind,
    /// The VIP. It must send all connections of the client to one real: the first is the control connection.
    pub target: SocketAddr,
    /// Streams at the same time.
    pub streams: u8,
    /// How long, in seconds.
    pub seconds: u32,
    /// From the real to the client, so past the balancer.
    pub reverse: bool,
}

/// A running test; ends with the value.
#[derive(Debug)]
pub struct Iperf3 {
    test: Test,
    process: Process,
    report: PathBuf,
}

/// What a test measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// What it sent.
    pub kind: Kind,
    /// The VIP.
    pub target: SocketAddr,
    /// Sent, in bits a second.
    pub sent: f64,
    /// Received at the other end, in bits a second.
    pub received: f64,
    /// Segments sent again, with TCP; 0 where iperf3 does not say.
    pub retransmits: u64,
    /// Datagrams sent, with UDP.
    pub datagrams: u64,
    /// Datagrams that did not arrive, with UDP.
    pub lost: u64,
    /// Why the test failed.
    pub fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    error: Option<String>,
    end: End,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct End {
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
    sum: Option<Sum>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Sum {
    bits_per_second: f64,
    retransmits: u64,
    packets: u64,
    lost_packets: u64,
}

impl Iperf3 {
    /// Starts a test from the client.
    ///
    /// # Errors
    /// [`LabError::NotInstalled`] without `iperf3`; [`LabError::Spawn`].
    pub fn start(lab: &Lab, test: Test) -> Result<Self, LabError> {
        let mut command = Command::new(program::find("iperf3", "iperf3")?);
        command.args(["--json", "--client", &test.target.ip().to_string()]);
        command.args(["--port", &test.target.port().to_string(), "--time", &test.seconds.to_string()]);
        command.args(["--parallel", &test.streams.to_string(), "--connect-timeout", "5000"]);
        if let Kind::Udp(rate) = test.kind {
            command.args(["--udp", "--bitrate", &rate.to_string()]);
        }
        if test.reverse {
            command.arg("--reverse");
        }
        let process = lab.spawn(Host::Client, command)?;
        Ok(Self { test, report: process.log().to_owned(), process })
    }

    /// Does it still run?
    #[must_use]
    pub fn running(&self) -> bool {
        self.process.alive()
    }

    /// Waits for the end and reads the report.
    ///
    /// # Errors
    /// [`LabError::Answer`] if the report cannot be read.
    pub fn finish(mut self) -> Result<Measured, LabError> {
        self.process.wait()?;
        let text = fs::read_to_string(&self.report).map_err(LabError::file("read", &self.report))?;
        read(self.test, &text)
    }
}

fn read(test: Test, text: &str) -> Result<Measured, LabError> {
    let answer = |source| LabError::Answer { program: "iperf3", source, found: text.chars().take(300).collect() };
    let report: Report = serde_json::from_str(text).map_err(answer)?;
    // For UDP, iperf3 3.12 has one sum, of the receiver; later ones have both.
    let sum = report.end.sum.unwrap_or_default();
    let sent = report.end.sum_sent.unwrap_or_else(|| sum.clone());
    let received = report.end.sum_received.unwrap_or_else(|| sum.clone());
    Ok(Measured {
        kind: test.kind,
        target: test.target,
        sent: sent.bits_per_second,
        received: received.bits_per_second,
        retransmits: sent.retransmits,
        datagrams: sum.packets.max(received.packets),
        lost: sum.lost_packets.max(received.lost_packets),
        fault: report.error,
    })
}
