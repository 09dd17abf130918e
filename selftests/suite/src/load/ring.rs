// SPDX-License-Identifier: GPL-2.0-only
//! A token that goes round the CPUs: every step wakes a thread on another one.

use std::sync::mpsc;

use super::{join_all, pin, this_cpu, Result};

/// How often the token goes round.
const ROUNDS: u64 = 100;

/// Sends the token round `cpus`; each adds one to it.
pub fn run(cpus: &[usize]) -> Result {
    let count = cpus.len();
    let (senders, receivers): (Vec<_>, Vec<_>) =
        cpus.iter().map(|_| mpsc::channel::<u64>()).unzip();
    let first = senders[0].clone();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (place, (&cpu, receiver)) in cpus.iter().zip(receivers).enumerate() {
            let next = senders[(place + 1) % count].clone();
            threads.push(scope.spawn(move || {
                pin(cpu)?;
                for round in 0..ROUNDS {
                    let token = receiver.recv().map_err(|_| "the token is lost")?;
                    let expected = round * count as u64 + place as u64;
                    if token != expected {
                        return Err(format!(
                            "the token is {token} on CPU {cpu} and not {expected}"
                        ));
                    }
                    if this_cpu() != cpu {
                        return Err(format!("a thread has left CPU {cpu}"));
                    }
                    // The last one of all has nobody left to take it.
                    let _ = next.send(token + 1);
                }
                Ok(())
            }));
        }
        let _ = first.send(0);
        drop((first, senders));
        join_all(threads)
    })
}
