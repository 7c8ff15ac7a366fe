//! From text to values.

use crate::machine::{Fault, Symbols};
use crate::value::{Context, Ref, Value, list, number, pair, text, truth};

/// Reads values from text, one after the other.
pub(crate) struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Reader<'t> {
        Reader { text, at: 0 }
    }

    /// The next value; `None` at the end of the text.
    pub(crate) fn next<'g>(
        &mut self,
        cx: &Context<'g, '_>,
        symbols: &Symbols<'g>,
    ) -> Result<Option<Ref<'g>>, Fault> {
        self.skip_space();
        let Some(first) = self.peek() else { return Ok(None) };
        let value = match first {
            '(' => {
                self.at += 1;
                self.list(cx, symbols)?
            }
            ')' => return Err(self.fault("a ) without its (")),
            '\'' => {
                self.at += 1;
                let quoted = self.next(cx, symbols)?.ok_or_else(|| self.fault("nothing after '"))?;
                list(cx, &[symbols.intern(cx, "quote")?, quoted])?
            }
            '"' => self.string(cx)?,
            _ => self.atom(cx, symbols)?,
        };
        Ok(Some(value))
    }

    fn list<'g>(&mut self, cx: &Context<'g, '_>, symbols: &Symbols<'g>) -> Result<Ref<'g>, Fault> {
        let mut values = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => return Err(self.fault("a ( without its )")),
                Some(')') => {
                    self.at += 1;
                    return Ok(list(cx, &values)?);
                }
                Some('.') if self.text[self.at + 1..].starts_with(char::is_whitespace) => {
                    self.at += 1;
                    let rest = self.next(cx, symbols)?.ok_or_else(|| self.fault("nothing after ."))?;
                    self.skip_space();
                    if self.peek() != Some(')') {
                        return Err(self.fault("one value and a ) must follow a ."));
                    }
                    self.at += 1;
                    return Ok(values.iter().rev().try_fold(rest, |rest, &value| pair(cx, value, rest))?);
                }
                Some(_) => values.extend(self.next(cx, symbols)?),
            }
        }
    }

    fn string<'g>(&mut self, cx: &Context<'g, '_>) -> Result<Ref<'g>, Fault> {
        let mut content = String::new();
        let mut characters = self.text[self.at + 1..].char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '"' => {
                    self.at += offset + 2;
                    return Ok(text(cx, &content)?);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => content.push('\n'),
                    Some((_, other)) => content.push(other),
                    None => break,
                },
                other => content.push(other),
            }
        }
        Err(self.fault("a string without its end"))
    }

    fn atom<'g>(&mut self, cx: &Context<'g, '_>, symbols: &Symbols<'g>) -> Result<Ref<'g>, Fault> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| c.is_whitespace() || "()'\";".contains(c)).unwrap_or(rest.len());
        let (atom, _) = rest.split_at(end);
        self.at += end;
        Ok(match atom {
            "#t" => truth(cx, true)?,
            "#f" => truth(cx, false)?,
            "nil" => cx.allocate(Value::Nil)?,
            _ => match atom.parse() {
                Ok(value) => number(cx, value)?,
                Err(_) => symbols.intern(cx, atom)?,
            },
        })
    }

    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with(';') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn fault(&self, what: &str) -> Fault {
        let line = self.text[..self.at].matches('\n').count() + 1;
        Fault::new(format!("line {line}: {what}"))
    }
}
