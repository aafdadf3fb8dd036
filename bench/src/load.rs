//! All connections at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    http::{Connection, Target},
    plan::Plan,
    report::{CpuTime, Report},
};

/// What one connection saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Of each acknowledged request, in microseconds.
    pub(crate) latencies: Vec<u32>,
    /// Requests that were not acknowledged, by status, or `connection` where no answer came.
    pub(crate) errors: BTreeMap<String, u32>,
}

/// Opens the connections, runs the plan over them and reports. `at_once`: each sends one request, and none before all are open and ready.
pub(crate) async fn run(target: &Target, plan: Plan, connections: u32, at_once: bool) -> Result<Report> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(target).await.with_context(|| format!("{target} does not take connections"))?);
    }
    let plan = Arc::new(plan);
    let cpu = CpuTime::of_this_process();
    let start = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .map(|connection| tokio::spawn(drive(connection, target.clone(), Arc::clone(&plan), start, at_once)))
        .collect();
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await?);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report::new(connections, seconds, cpu.elapsed(), tallies))
}

async fn drive(connection: Connection, target: Target, plan: Arc<Plan>, start: Instant, once: bool) -> Tally {
    let mut tally = Tally { latencies: Vec::with_capacity(4096), ..Tally::default() };
    let mut connection = Some(connection);
    while let Some(turn) = plan.turn(start) {
        if let Some(due) = turn.due {
            sleep_until(due).await;
        }
        let begun = turn.due.unwrap_or_else(Instant::now);
        let answer = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&target).await?,
            };
            let status = open.exchange(turn.bytes).await?;
            connection = Some(open).filter(|open| !open.is_closed());
            Ok::<_, std::io::Error>(status)
        };
        match answer.await {
            Ok(200) => tally.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX)),
            Ok(status) => *tally.errors.entry(status.to_string()).or_default() += 1,
            Err(_) => {
                *tally.errors.entry("connection".to_owned()).or_default() += 1;
                sleep(Duration::from_millis(10)).await;
            }
        }
        if once {
            // Whoever is not done yet has its request still to send.
            break;
        }
    }
    tally
}
