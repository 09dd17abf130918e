// SPDX-License-Identifier: GPL-2.0-only
//! Groups of processes in which each of some sends messages to each of others, through pipes in one
//! group and sockets in the next.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use super::{last_error, this_cpu, Result};
use crate::host::Mapping;
use crate::kvm::PAGE;

/// Processes of each kind in a group.
const MEMBERS: usize = 4;
/// Messages from each sender to each receiver.
const MESSAGES: u64 = 100;
/// 64-bit words in a message: sender, number, and the rest to fill it.
const WORDS: usize = 8;
/// Bytes in a message: few enough that a pipe keeps them together.
const BYTES: usize = WORDS * 8;
/// How often the groups run until every CPU has had a part in them.
const TRIES: usize = 20;
/// Mixed into a message's other words, so that words of two messages do not pass for one.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// One message.
fn message(sender: usize, number: u64) -> [u64; WORDS] {
    let mut words = [(sender as u64 + 1).wrapping_mul(MIX) ^ number; WORDS];
    (words[0], words[1]) = (sender as u64, number);
    words
}

/// The two ends of a new channel, first the one to read from.
fn channel(sockets: bool) -> Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    let failed = unsafe {
        if sockets {
            libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr())
        } else {
            libc::pipe(ends.as_mut_ptr())
        }
    };
    if failed != 0 {
        return Err(last_error("a channel"));
    }
    // SAFETY: two new descriptors that nothing else owns.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}

fn to_bytes(words: &[u64; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn send(id: usize, ends: &[File], seen: &Mapping) -> Result {
    for number in 0..MESSAGES {
        for mut end in ends {
            end.write_all(&to_bytes(&message(id, number)))
                .map_err(|e| format!("sending: {e}"))?;
        }
        mark(seen);
    }
    Ok(())
}

fn receive(mut end: &File, seen: &Mapping) -> Result {
    let mut next = [0; MEMBERS];
    let mut bytes = [0; BYTES];
    while next.iter().any(|&number| number < MESSAGES) {
        end.read_exact(&mut bytes)
            .map_err(|e| format!("receiving: {e}"))?;
        let sender = u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let Some(number) = next.get_mut(sender) else {
            return Err(format!("a message of a sender {sender}"));
        };
        if bytes != to_bytes(&message(sender, *number)) {
            return Err(format!(
                "message {number} of sender {sender} is not what was sent"
            ));
        }
        *number += 1;
        mark(seen);
    }
    Ok(())
}

/// Notes that the CPU of this process has done something: a byte for each, so that none overwrites another's.
fn mark(seen: &Mapping) {
    seen.write(this_cpu() as u64, &[1]);
}

/// Runs `body` in a process of its own, whose status says whether it came out right.
fn spawn(body: impl FnOnce() -> Result) -> Result<libc::pid_t> {
    // SAFETY: this process has one thread when it forks, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Err(last_error("fork")),
        0 => {
            let result = body();
            if let Err(reason) = &result {
                println!("load: {reason}");
            }
            // SAFETY: ends this process without running what belongs to its parent.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        pid => Ok(pid),
    }
}

/// Waits for the process `pid` to end well.
fn wait(pid: libc::pid_t) -> Result {
    let mut status = 0;
    // SAFETY: `status` is a local.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    if waited != pid || status != 0 {
        return Err(format!("a process of the messages ended with {status:#x}"));
    }
    Ok(())
}

/// Runs `groups` groups to their end, and notes the CPUs that they ran on in `seen`.
fn run(groups: usize, seen: &Mapping) -> Result {
    let mut processes = Vec::new();
    for group in 0..groups {
        let mut senders_ends = Vec::new();
        for _ in 0..MEMBERS {
            let (read, write) = channel(group % 2 == 1)?;
            processes.push(spawn(|| receive(&read, seen))?);
            senders_ends.push(write);
        }
        for id in 0..MEMBERS {
            processes.push(spawn(|| send(id, &senders_ends, seen))?);
        }
    }
    // All are waited for, and then the first failure counts.
    let results: Vec<Result> = processes.into_iter().map(wait).collect();
    results.into_iter().collect()
}

/// Runs groups until every one of `cpus` has had a part.
pub fn on_all_cpus(cpus: &[usize]) -> Result {
    let seen = Mapping::shared(PAGE);
    let missing = |cpu: &&usize| seen.get(**cpu as u64) & 0xff == 0;
    for _ in 0..TRIES {
        run(cpus.len().max(2), &seen)?;
        if !cpus.iter().any(|cpu| missing(&cpu)) {
            return Ok(());
        }
    }
    let idle: Vec<_> = cpus.iter().filter(missing).collect();
    Err(format!("the CPUs {idle:?} never got any work"))
}

/// Messages in the background.
pub struct Background {
    process: libc::pid_t,
    stop: Mapping,
}

impl Background {
    /// Starts groups that run again and again.
    pub fn start(groups: usize) -> Result<Self> {
        // The first word says that it is to stop, the second how many rounds have ended.
        let stop = Mapping::shared(PAGE);
        let process = spawn(|| {
            let seen = Mapping::shared(PAGE);
            loop {
                run(groups, &seen)?;
                stop.set(8, stop.get(8) + 1);
                if stop.get(0) != 0 {
                    break Ok(());
                }
            }
        })?;
        Ok(Self { process, stop })
    }

    /// How often they have run to their end.
    pub fn rounds(&self) -> u64 {
        self.stop.get(8)
    }

    /// Lets them end.
    pub fn finish(self) -> Result {
        self.stop.set(0, 1);
        wait(self.process)
    }
}
