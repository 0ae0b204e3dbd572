//! Where the story is told: a connection to ask, and the place to print to.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postgres::{Client, Config, NoTls};

use crate::answer::Answer;

/// The width of running text.
const WIDTH: usize = 96;
const INDENT: &str = "    ";
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stage<'a> {
    config: Config,
    pub client: Client,
    out: &'a mut dyn Write,
    names: Vec<(String, String)>,
    scenes: usize,
}

fn sign_in(config: &Config) -> Result<Client> {
    let mut client = config.connect(NoTls).context("cannot connect to the database")?;
    client.batch_execute("SET client_min_messages = warning; SET timezone = 'UTC'")?;
    Ok(client)
}

impl<'a> Stage<'a> {
    /// Connects, and makes the extension anew, so that every run tells the same.
    pub fn open(config: &Config, out: &'a mut dyn Write) -> Result<Self> {
        let mut config = config.clone();
        config.application_name("ai_limiter demo");
        config.connect_timeout(PATIENCE);
        let mut client = sign_in(&config)?;
        client
            .batch_execute(
                "SET lock_timeout = '10s';
                 DROP EXTENSION IF EXISTS ai_limiter CASCADE;
                 CREATE EXTENSION ai_limiter;
                 RESET lock_timeout",
            )
            .context("cannot make the extension anew (is a transaction open in make psql?)")?;
        Ok(Self { config, client, out, names: Vec::new(), scenes: 0 })
    }

    /// One more connection, as of another client of the app.
    pub fn connect(&self) -> Result<Client> {
        self.config.connect(NoTls).context("cannot open another connection")
    }

    /// Where the database is, for clients that connect by themselves.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// After the server was down.
    pub fn reconnect(&mut self) -> Result<()> {
        self.client = sign_in(&self.config)?;
        Ok(())
    }

    /// Begins a scene: a heading, and in a sentence or two what happens.
    pub fn scene(&mut self, title: &str, text: &str) -> Result<()> {
        self.scenes += 1;
        let heading = format!("{}. {title}", self.scenes);
        writeln!(self.out, "\n{heading}\n{}", "-".repeat(heading.len()))?;
        self.say(text)
    }

    pub fn say(&mut self, text: &str) -> Result<()> {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if line.len() + word.len() >= WIDTH {
                writeln!(self.out, "{line}")?;
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        writeln!(self.out, "{line}\n")?;
        Ok(())
    }

    /// From now on `:name` in a statement is this value.
    pub fn name(&mut self, name: &str, value: &str) {
        self.names.retain(|(known, _)| known != name);
        self.names.push((name.to_owned(), value.to_owned()));
    }

    /// Prints a statement, runs it, and prints its answer.
    pub fn ask(&mut self, sql: &str) -> Result<Answer> {
        self.show(sql)?;
        let answer = self.run(sql)?;
        self.table(&answer)?;
        Ok(answer)
    }

    /// Runs what needs no showing.
    pub fn run(&mut self, sql: &str) -> Result<Answer> {
        let bound = self.bind(sql)?;
        let messages = self.client.simple_query(&bound).with_context(|| {
            format!("failed: {}", bound.split_whitespace().collect::<Vec<_>>().join(" "))
        })?;
        Ok(Answer::of(&messages))
    }

    pub fn show(&mut self, sql: &str) -> Result<()> {
        let mut begins = true;
        for line in sql.lines().map(str::trim) {
            writeln!(self.out, "{INDENT}{}{line}", if begins { "" } else { "  " })?;
            begins = line.ends_with(';');
        }
        writeln!(self.out)?;
        Ok(())
    }

    pub fn table(&mut self, answer: &Answer) -> Result<()> {
        for line in answer.render(&self.names).lines() {
            writeln!(self.out, "{INDENT}{}", line.trim_end())?;
        }
        writeln!(self.out)?;
        Ok(())
    }

    /// Puts the values in the place of `:name`, quoted, as psql does with `:'name'`.
    pub fn bind(&self, sql: &str) -> Result<String> {
        let mut bound = String::new();
        let mut rest = sql;
        while let Some((before, after)) = rest.split_once(':') {
            bound.push_str(before);
            let end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
            let name = &after[..end];
            match self.names.iter().find(|(known, _)| known == name) {
                Some((_, value)) => bound.push_str(&format!("'{}'", value.replace('\'', "''"))),
                // Casts and JSON have colons too.
                None if name.is_empty() || bound.ends_with(':') => {
                    bound.push_str(&format!(":{name}"))
                }
                None => bail!("the story has no value for :{name}"),
            }
            rest = &after[end..];
        }
        Ok(bound + rest)
    }
}
