//! Words of the text forms, with their places.
//!
//! Shared by all text forms: a [`Cursor`] goes through the text and hands out one [`Token`] after the other. It holds
//! the text and no list of tokens, so that a text of any size needs no memory beside it.

use orrery_base::{Diagnostic, Result};
use std::borrow::Cow;
use std::fmt;

/// A word.
#[derive(Clone, Debug, PartialEq)]
pub enum Token<'a> {
    /// A keyword or a plain name.
    Name(&'a str),
    /// `%name` or `%"name"`: a value.
    Value(Cow<'a, str>),
    /// A number without sign: decimal digits with fraction and exponent, or `0x` and hexadecimal digits.
    Number(&'a str),
    /// A quoted string, escapes resolved.
    String(String),
    /// Punctuation: one of [`PUNCTUATION`].
    Punctuation(&'static str),
    /// The end of the text.
    End,
}

/// All punctuation, longer marks before their beginnings.
pub const PUNCTUATION: &[&str] = &[
    "->", "..", "(", ")", "[", "]", "{", "}", "<", ">", ",", ":", ";", "=", "@", "*", "+", "-", "|", "?",
    "!", "&", "^", "~", "$",
];

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// What is shown of a long word.
        const SHOWN: usize = 40;
        let short = |text: &str| match text.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text.to_owned(),
        };
        match self {
            Self::Name(text) | Self::Number(text) => write!(f, "`{}`", short(text)),
            Self::Value(name) => write!(f, "`%{}`", short(&name_text(name))),
            Self::String(text) => write!(f, "{:?}", short(text)),
            Self::Punctuation(mark) => write!(f, "`{mark}`"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// True for names that print without quotes.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(is_name_byte)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.contains("..")
        && name != "."
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./".contains(&byte)
}

/// A name as the text forms print it: plain, or quoted.
pub fn name_text(name: &str) -> Cow<'_, str> {
    if is_plain_name(name) { Cow::Borrowed(name) } else { Cow::Owned(format!("{name:?}")) }
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Where the reading of a text stands.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    /// Where the token under the cursor starts.
    start: usize,
    /// Where it ends.
    end: usize,
    token: Token<'a>,
    /// How deep the parser is in nested text.
    depth: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor on the first word of a text.
    ///
    /// # Errors
    /// `text-syntax` where the text does not start with a word.
    pub fn new(text: &'a str) -> Result<Self> {
        let mut cursor = Self { text, start: 0, end: 0, token: Token::End, depth: 0 };
        cursor.advance()?;
        Ok(cursor)
    }
    /// The word under the cursor.
    pub fn peek(&self) -> &Token<'a> {
        &self.token
    }
    /// The byte of the text at which the word under the cursor starts, for [`Cursor::error_at`].
    pub fn offset(&self) -> usize {
        self.start
    }
    /// The place of a byte of the text.
    pub fn position(&self, offset: usize) -> Position {
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
    /// Takes the word under the cursor and goes to the next.
    ///
    /// # Errors
    /// `text-syntax` where what follows is no word.
    pub fn advance(&mut self) -> Result<Token<'a>> {
        let rest = &self.text[self.end..];
        let mut skipped = rest.trim_start();
        while let Some(comment) = skipped.strip_prefix('#') {
            skipped = comment.find('\n').map_or("", |end| &comment[end..]).trim_start();
        }
        self.start = self.text.len() - skipped.len();
        let (token, length) = self.word(skipped)?;
        self.end = self.start + length;
        Ok(std::mem::replace(&mut self.token, token))
    }
    /// The word at the front of `rest`, which starts at `self.start`, and its length in bytes.
    fn word(&self, rest: &'a str) -> Result<(Token<'a>, usize)> {
        let Some(first) = rest.bytes().next() else { return Ok((Token::End, 0)) };
        if first == b'"' {
            let (text, length) = self.string(rest, 0)?;
            return Ok((Token::String(text), length));
        }
        if first == b'%' {
            if rest[1..].starts_with('"') {
                let (name, length) = self.string(&rest[1..], 1)?;
                return Ok((Token::Value(name.into()), length + 1));
            }
            return match name_length(&rest[1..]) {
                0 => self.error_at(self.start, "expected a name after `%`").err(),
                length => Ok((Token::Value(rest[1..=length].into()), length + 1)),
            };
        }
        if first.is_ascii_digit() {
            let length = number_length(rest);
            if name_length(&rest[length..]) > 0 {
                let whole = length + name_length(&rest[length..]);
                return self.error_at(self.start, format!("`{}` is no number", &rest[..whole])).err();
            }
            return Ok((Token::Number(&rest[..length]), length));
        }
        match name_length(rest) {
            0 => {}
            length => return Ok((Token::Name(&rest[..length]), length)),
        }
        if let Some(mark) = PUNCTUATION.iter().find(|mark| rest.starts_with(**mark)) {
            return Ok((Token::Punctuation(mark), mark.len()));
        }
        let character = rest.chars().next().unwrap_or_default();
        self.error_at(self.start, format!("the character {character:?} has no meaning here"))
            .help("names with other characters than letters, digits, `_`, `.` and `/` stand in quotes")
            .err()
    }
    /// A quoted string at the front of `rest`, which starts `shift` bytes after `self.start`.
    fn string(&self, rest: &str, shift: usize) -> Result<(String, usize)> {
        let mut text = String::new();
        let mut characters = rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return Ok((text, at + 1)),
                '\\' => match escape(&rest[at + 1..]) {
                    Some((resolved, length)) => {
                        text.push(resolved);
                        // Escapes are ASCII: as many characters as bytes.
                        characters.nth(length - 1);
                    }
                    None => {
                        return self
                            .error_at(self.start + shift + at, "unknown escape in string")
                            .help("escapes are \\n \\t \\r \\0 \\\\ \\\" \\' and \\u{…} with a hexadecimal code point")
                            .err();
                    }
                },
                _ => text.push(character),
            }
        }
        self.error_at(self.start + shift, "the string that starts here does not end").err()
    }
    /// An error at the word under the cursor.
    pub fn error(&self, cause: impl Into<String>) -> Diagnostic {
        self.error_at(self.start, cause)
    }
    /// An error at a byte of the text.
    pub fn error_at(&self, offset: usize, cause: impl Into<String>) -> Diagnostic {
        self.diagnostic_at(offset, "text-syntax", cause)
    }
    /// An error with a code of its own at a byte of the text.
    pub fn diagnostic_at(&self, offset: usize, code: &'static str, cause: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, cause).at(self.position(offset).to_string())
    }
    /// The error that something else was expected than what is under the cursor.
    pub fn expected(&self, what: &str) -> Diagnostic {
        self.error(format!("expected {what}, found {}", self.token))
    }
    /// True where the word under the cursor is this punctuation.
    pub fn at(&self, mark: &str) -> bool {
        matches!(self.token, Token::Punctuation(found) if found == mark)
    }
    /// True where the word under the cursor is this name.
    pub fn at_name(&self, name: &str) -> bool {
        self.token == Token::Name(name)
    }
    /// Takes this punctuation, where it is under the cursor.
    ///
    /// # Errors
    /// As [`Cursor::advance`].
    pub fn take(&mut self, mark: &str) -> Result<bool> {
        let found = self.at(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }
    /// Takes this name, where it is under the cursor.
    ///
    /// # Errors
    /// As [`Cursor::advance`].
    pub fn take_name(&mut self, name: &str) -> Result<bool> {
        let found = self.at_name(name);
        if found {
            self.advance()?;
        }
        Ok(found)
    }
    /// Takes this punctuation.
    ///
    /// # Errors
    /// `text-syntax` where something else is under the cursor.
    pub fn expect(&mut self, mark: &str) -> Result<()> {
        if self.take(mark)? { Ok(()) } else { self.expected(&format!("`{mark}`")).err() }
    }
    /// Takes this name.
    ///
    /// # Errors
    /// `text-syntax` where something else is under the cursor.
    pub fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.take_name(name)? { Ok(()) } else { self.expected(&format!("`{name}`")).err() }
    }
    /// Takes a plain or quoted name.
    ///
    /// # Errors
    /// `text-syntax` where something else is under the cursor.
    pub fn name(&mut self, what: &str) -> Result<String> {
        match &self.token {
            Token::Name(_) | Token::String(_) => {}
            _ => return self.expected(what).err(),
        }
        Ok(match self.advance()? {
            Token::Name(name) => name.to_owned(),
            Token::String(name) => name,
            _ => String::new(),
        })
    }
    /// Takes a string.
    ///
    /// # Errors
    /// `text-syntax` where something else is under the cursor.
    pub fn string_value(&mut self, what: &str) -> Result<String> {
        let Token::String(_) = self.token else { return self.expected(what).err() };
        self.name(what)
    }
    /// Takes the name of a value.
    ///
    /// # Errors
    /// `text-syntax` where something else is under the cursor.
    pub fn value(&mut self) -> Result<Cow<'a, str>> {
        let Token::Value(_) = self.token else { return self.expected("a value such as `%x`").err() };
        match self.advance()? {
            Token::Value(name) => Ok(name),
            _ => Ok(Cow::Borrowed("")),
        }
    }
    /// Takes an integer with or without sign, within `least` and `most`.
    ///
    /// # Errors
    /// `text-syntax` where something else is under the cursor, or where it is out of range.
    pub fn integer(&mut self, what: &str, least: i128, most: i128) -> Result<i128> {
        let start = self.start;
        let negative = self.take("-")?;
        let Token::Number(digits) = self.token else { return self.expected(what).err() };
        let magnitude = match digits.strip_prefix("0x") {
            Some(hexadecimal) => i128::from_str_radix(hexadecimal, 16).ok(),
            None => digits.parse::<i128>().ok(),
        };
        match magnitude.map(|n| if negative { -n } else { n }) {
            Some(n) if (least..=most).contains(&n) => {
                self.advance()?;
                Ok(n)
            }
            Some(n) => self.error_at(start, format!("{n} is out of range, which is {least} to {most}")).err(),
            None => self.expected(what).err(),
        }
    }
    /// Takes an integer of 64 bits.
    ///
    /// # Errors
    /// As [`Cursor::integer`].
    pub fn i64(&mut self, what: &str) -> Result<i64> {
        let n = self.integer(what, i64::MIN.into(), i64::MAX.into())?;
        Ok(i64::try_from(n).expect("in the range asked for"))
    }
    /// Takes an unsigned integer of 64 bits.
    ///
    /// # Errors
    /// As [`Cursor::integer`].
    pub fn u64(&mut self, what: &str) -> Result<u64> {
        let n = self.integer(what, 0, u64::MAX.into())?;
        Ok(u64::try_from(n).expect("in the range asked for"))
    }
    /// Takes items separated by commas up to `close`, which is taken too.
    ///
    /// # Errors
    /// What `item` says; `text-syntax` where neither a comma nor `close` follows an item.
    pub fn list(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if self.take(close)? {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.take(close)? {
                return Ok(());
            }
            if !self.take(",")? {
                return self.expected(&format!("`,` or `{close}`")).err();
            }
        }
    }
    /// Parses something that may hold itself.
    ///
    /// # Errors
    /// `text-limit` where it nests deeper than [`super::NESTING`]; what `inner` says.
    pub fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= super::NESTING {
            let cause = format!("nested deeper than {} levels", super::NESTING);
            return self.diagnostic_at(self.start, "text-limit", cause).err();
        }
        self.depth += 1;
        let parsed = inner(self);
        self.depth -= 1;
        parsed
    }
    /// Says that the text must end here.
    ///
    /// # Errors
    /// `text-syntax` where it goes on.
    pub fn finish(&self) -> Result<()> {
        if self.token == Token::End { Ok(()) } else { self.expected("the end of the text").err() }
    }
}

/// Bytes of the plain name at the front; none where it starts with a digit.
fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    if bytes.first().is_none_or(u8::is_ascii_digit) {
        return 0;
    }
    let mut length = bytes.iter().take_while(|b| is_name_byte(**b)).count();
    if let Some(range) = text[..length].find("..") {
        length = range;
    }
    if &text[..length] == "." { 0 } else { length }
}

/// Bytes of the number at the front, which starts with a digit.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    if text.starts_with("0x") {
        return 2 + bytes[2..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
    }
    let mut length = digits(0);
    if bytes.get(length) == Some(&b'.') && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        if let exponent @ 1.. = bytes.get(length + 1 + signed..).map_or(0, |_| digits(length + 1 + signed)) {
            length += 1 + signed + exponent;
        }
    }
    length
}

/// The character that an escape stands for, and its bytes after the backslash.
fn escape(text: &str) -> Option<(char, usize)> {
    let simple = match text.bytes().next()? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'0' => '\0',
        b'\\' => '\\',
        b'"' => '"',
        b'\'' => '\'',
        b'u' => {
            let code = text.strip_prefix("u{")?;
            let digits = &code[..code.find('}')?];
            if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let resolved = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            return Some((resolved, digits.len() + 3));
        }
        _ => return None,
    };
    Some((simple, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut cursor = Cursor::new(text).unwrap();
        let mut words = Vec::new();
        while *cursor.peek() != Token::End {
            words.push(cursor.advance().unwrap().to_string());
        }
        words
    }

    #[test]
    fn splits_text_into_words() {
        let shown =
            ["`%a/b.c`", "`:`", "`f32`", "`[`", "`0`", "`..`", "`16`", "`]`", "`->`", "`-`", "`1.5e-3`"];
        assert_eq!(words("%a/b.c:f32[0..16]-> -1.5e-3 # comment\n#"), shown);
        assert_eq!(words("lo..hi 0x1F"), ["`lo`", "`..`", "`hi`", "`0x1F`"]);
        assert_eq!(words(r#"%"a \"b\"" "\u{e9}\n""#), [r#"`%"a \"b\""`"#, r#""é\n""#]);
    }

    #[test]
    fn says_where_a_text_is_wrong() {
        let place = |text: &str| match Cursor::new(text) {
            Ok(mut cursor) => loop {
                match cursor.advance() {
                    Ok(Token::End) => break "none".to_owned(),
                    Ok(_) => {}
                    Err(error) => break error.place.join(", "),
                }
            },
            Err(error) => error.place.join(", "),
        };
        assert_eq!(place("a\n é"), "line 2, column 2");
        assert_eq!(place("a\n é\" \\q\""), "line 2, column 2");
        assert_eq!(place("a\n  \"é \\q\""), "line 2, column 6");
        assert_eq!(place("\"open"), "line 1, column 1");
        assert_eq!(place("12x"), "line 1, column 1");
        assert_eq!(place("% x"), "line 1, column 1");
    }
}
