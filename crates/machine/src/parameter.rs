//! One number of a machine, with all that is known about it.

/// How far a number can be trusted; every display of a number shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Read in the text of the vendor, the operator or whoever measured it.
    Published,
    /// Read in somebody else's text: press, notes, a lecture.
    Reported,
    /// Arithmetic from published or reported numbers; the note gives it.
    Derived,
    /// A fit to few numbers that nobody published.
    Fitted,
    /// Nobody publishes it: general knowledge or a choice of this project; the note says what it rests on.
    Assumed,
    /// Found by `calibrate` from measurements.
    Calibrated,
}

impl Status {
    /// Every status, from the most to the least trusted source.
    pub const ALL: [Self; 6] =
        [Self::Published, Self::Reported, Self::Derived, Self::Fitted, Self::Assumed, Self::Calibrated];
    /// The word in system files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Reported => "reported",
            Self::Derived => "derived",
            Self::Fitted => "fitted",
            Self::Assumed => "assumed",
            Self::Calibrated => "calibrated",
        }
    }
    /// What the word means, in one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Published => "Read in the text of the vendor, of the operator, or of whoever measured it.",
            Self::Reported => "Read in somebody else's text: press, a data card, a lecture.",
            Self::Derived => "Arithmetic from published or reported numbers; the note gives it.",
            Self::Fitted => "A fit to a few numbers that nobody published; never to be called published.",
            Self::Assumed => {
                "Nobody publishes it: general knowledge or a choice of this project. The note says what it rests on."
            }
            Self::Calibrated => "Found by `orrery calibrate` from measurements; the note lists them.",
        }
    }
    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == word)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The part of a matrix product that one block of a kernel computes: `m` by `n` outputs in steps of `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TileShape {
    /// Output rows.
    pub m: u64,
    /// Output columns.
    pub n: u64,
    /// Length of one step along the sum.
    pub k: u64,
}

/// What a parameter holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A finite, positive number in the parameter's unit.
    Number(f64),
    /// Tile shapes in elements, largest first.
    Shapes(Vec<TileShape>),
}

/// Another value that some source gives for the same thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// The number, in the unit of the parameter.
    pub value: f64,
    /// How far to trust it.
    pub status: Status,
    /// Keys of the sources, declared in [`System::sources`](crate::System::sources).
    pub sources: Vec<String>,
    /// What the value means there.
    pub note: Option<String>,
}

/// One number of a machine, with unit, status and source.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The value that the models use.
    pub value: Value,
    /// Unit, one of [`keys::UNITS`](crate::keys::UNITS).
    pub unit: String,
    /// How far to trust it.
    pub status: Status,
    /// Keys of the sources, declared in [`System::sources`](crate::System::sources).
    pub sources: Vec<String>,
    /// Lowest and highest value of the source, where it gives a range.
    pub range: Option<(f64, f64)>,
    /// The place in the source, the arithmetic of a derived value, or what an assumed one rests on.
    pub note: Option<String>,
    /// What other sources say.
    pub alternatives: Vec<Alternative>,
}

impl Parameter {
    /// The number, or none where the parameter is a list of shapes.
    pub fn number(&self) -> Option<f64> {
        match self.value {
            Value::Number(number) => Some(number),
            Value::Shapes(_) => None,
        }
    }
}
