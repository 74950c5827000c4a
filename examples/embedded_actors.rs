//! Actors of the program on both ends: one publishes by message, one gets records as messages.

mod common;

use actix::{Actor, Context, Handler, Message};
use anyhow::Result;
use common::{Cluster, Printed};
use highwater::{
    client::{Delivery, NewTopic, Record, consumer::Credit},
    embed::{Publish, Publisher, deliver_to},
    types::{Position, TopicName},
};
use std::time::Duration;

/// Adds up the numbers that it is sent.
#[derive(Default)]
struct Adder {
    sum: u64,
    records: u64,
}

impl Actor for Adder {
    type Context = Context<Self>;
}

impl Handler<Delivery> for Adder {
    type Result = ();

    fn handle(&mut self, delivery: Delivery, _: &mut Context<Self>) {
        let text = String::from_utf8_lossy(delivery.value.as_deref().unwrap_or_default()).into_owned();
        self.sum += text.parse::<u64>().unwrap_or(0);
        self.records += 1;
    }
}

/// Asks for what was added up so far.
struct Sum;

impl Message for Sum {
    type Result = (u64, u64);
}

impl Handler<Sum> for Adder {
    type Result = actix::MessageResult<Sum>;

    fn handle(&mut self, _: Sum, _: &mut Context<Self>) -> Self::Result {
        actix::MessageResult((self.records, self.sum))
    }
}

fn main() -> Result<()> {
    actix_rt::System::new().block_on(run())
}

async fn run() -> Result<()> {
    let cluster = Cluster::without_port().await?;
    let client = cluster.in_process().await?;
    let mut printed = Printed::default();
    let topic: TopicName = "numbers".parse()?;
    client.admin().create_topic(NewTopic::new(topic.clone()).partitions(3)).await?;

    let adder = Adder::default().start();
    let consumer = client.consumer().assign((0..3).map(|p| (topic.clone(), p, Position::Earliest))).await?;
    let listening = deliver_to(consumer, Credit { records: 16, ..Credit::default() }, adder.clone().recipient());

    let publisher = Publisher::new(client.producer().build()).start();
    let mut answers = Vec::new();
    for number in 1..=1_000u32 {
        let record = Record::new(topic.clone(), number.to_string()).key(number.to_string());
        answers.push(publisher.send(Publish(record)));
    }
    // Together: a message that finds the mailbox full is sent only when somebody waits for its answer.
    for answer in futures_util::future::join_all(answers).await {
        answer??;
    }
    printed.line("1000 numbers are published");

    let begun = tokio::time::Instant::now();
    loop {
        let (records, sum) = adder.send(Sum).await?;
        if records >= 1_000 || begun.elapsed() > Duration::from_secs(30) {
            printed.line(format!("{records} numbers, their sum is {sum}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    listening.stop().await?;
    client.close();
    cluster.stop().await?;
    printed.check(&["1000 numbers are published", "1000 numbers, their sum is 500500"])
}
