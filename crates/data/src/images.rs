//! Images in a folder, one sub-folder for each class, decoded when a batch asks for them.

use crate::files;
use image::imageops::FilterType;
use image::{ColorType, ImageDecoder, ImageReader};
use orrery_base::{Diagnostic, Result};
use std::path::{Path, PathBuf};

/// How images are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// Rows and columns that every image is resized to, linearly interpolated; none where all have one size.
    pub size: Option<(usize, usize)>,
    /// Colours become shades of grey.
    pub grey: bool,
}

/// Image files of one shape.
#[derive(Debug)]
pub(crate) struct Images {
    files: Vec<PathBuf>,
    options: ImageOptions,
    /// Channels, rows, columns.
    shape: [usize; 3],
}

/// The files of a folder with the number of their class, and the classes: the sub-folders in the order of names.
pub(crate) struct Folder {
    pub(crate) images: Images,
    pub(crate) labels: Vec<i64>,
    pub(crate) classes: Vec<String>,
}

/// Rows and columns beyond this are refused: images of that size are not meant for training.
const LARGEST_SIDE: usize = 1 << 14;

fn is_image(path: &Path) -> bool {
    matches!(files::extension(path).as_str(), "png" | "jpg" | "jpeg")
}

fn bad(path: &Path, error: &dyn std::fmt::Display) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error("data-image", format!("the image cannot be read: {error}"))
            .at(path.display().to_string())
            .help("images are PNG or JPEG files"),
    )
}

impl Folder {
    /// Finds the images and looks at the header of each.
    ///
    /// # Errors
    /// `file-read`; `data-empty` where no sub-folder has images; `data-image` where one cannot be read or has another
    /// size than the first.
    pub(crate) fn open(folder: &Path, options: ImageOptions) -> Result<Self> {
        let (mut found, mut labels, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        for sub in files::entries(folder)?.into_iter().filter(|path| path.is_dir()) {
            let here: Vec<PathBuf> =
                files::entries(&sub)?.into_iter().filter(|path| is_image(path)).collect();
            if !here.is_empty() {
                labels.extend(std::iter::repeat_n(classes.len() as i64, here.len()));
                classes.push(sub.file_name().unwrap_or_default().to_string_lossy().into_owned());
                found.extend(here);
            }
        }
        let images = Images::open(found, options, folder)?;
        Ok(Self { images, labels, classes })
    }
}

impl Images {
    fn open(files: Vec<PathBuf>, options: ImageOptions, folder: &Path) -> Result<Self> {
        let (mut size, mut coloured) = (options.size, false);
        for path in &files {
            let ((rows, columns), colour) = header(path)?;
            coloured |= colour;
            let (wanted_rows, wanted_columns) = *size.get_or_insert((rows, columns));
            if options.size.is_none() && (rows, columns) != (wanted_rows, wanted_columns) {
                let cause = format!(
                    "the image has {rows} rows and {columns} columns, the first one {wanted_rows} and {wanted_columns}"
                );
                return Diagnostic::error("data-image", cause)
                    .at(path.display().to_string())
                    .help("say which size all images are to be resized to")
                    .err();
            }
        }
        let Some((rows, columns)) = size.filter(|_| !files.is_empty()) else {
            return Diagnostic::error("data-empty", "no sub-folder holds PNG or JPEG images")
                .at(folder.display().to_string())
                .help("there must be one sub-folder for each class, with its images")
                .err();
        };
        if rows == 0 || columns == 0 || rows.max(columns) > LARGEST_SIDE {
            let cause = format!("images of {rows} rows and {columns} columns cannot be held");
            return Diagnostic::error("data-too-large", cause).at(folder.display().to_string()).err();
        }
        let channels = if coloured && !options.grey { 3 } else { 1 };
        Ok(Self { files, options, shape: [channels, rows, columns] })
    }
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Appends an image's bytes, channel by channel.
    ///
    /// # Errors
    /// `data-image` where it cannot be decoded or is no longer of the size it was.
    pub(crate) fn decode(&self, index: usize, into: &mut Vec<u8>) -> Result<()> {
        let path = &self.files[index];
        let [channels, rows, columns] = self.shape;
        let mut image = reader(path)?.decode().map_err(|error| bad(path, &error))?;
        if self.options.size.is_some() {
            image = image.resize_exact(columns as u32, rows as u32, FilterType::Triangle);
        }
        if (image.height() as usize, image.width() as usize) != (rows, columns) {
            return Err(bad(path, &"it has changed since the folder was opened"));
        }
        if channels == 1 {
            into.extend_from_slice(image.to_luma8().as_raw());
        } else {
            let pixels = image.to_rgb8();
            for channel in 0..channels {
                into.extend(pixels.as_raw().iter().skip(channel).step_by(channels));
            }
        }
        Ok(())
    }
}

fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>> {
    ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|error| bad(path, &error))
}

/// Rows and columns, and whether there are colours.
fn header(path: &Path) -> Result<((usize, usize), bool)> {
    let decoder = reader(path)?.into_decoder().map_err(|error| bad(path, &error))?;
    let (columns, rows) = decoder.dimensions();
    let grey =
        matches!(decoder.color_type(), ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16);
    Ok(((rows as usize, columns as usize), !grey))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    fn png(scratch: &Scratch, name: &str, rows: u32, columns: u32, pixel: [u8; 3]) {
        let path = scratch.file(name, b"");
        let image = image::RgbImage::from_pixel(columns, rows, image::Rgb(pixel));
        image.save_with_format(path, image::ImageFormat::Png).unwrap();
    }

    #[test]
    fn sub_folders_are_classes_and_pixels_come_channel_by_channel() {
        let scratch = Scratch::new("images");
        png(&scratch, "dogs/1.png", 1, 2, [1, 2, 3]);
        png(&scratch, "cats/b.png", 1, 2, [7, 8, 9]);
        png(&scratch, "cats/a.png", 1, 2, [4, 5, 6]);
        scratch.file("cats/notes.txt", b"no image");
        let folder = Folder::open(&scratch.path(""), ImageOptions::default()).unwrap();
        assert_eq!((folder.classes, folder.labels), (vec!["cats".into(), "dogs".into()], vec![0, 0, 1]));
        assert_eq!(folder.images.shape(), [3, 1, 2]);
        let mut bytes = Vec::new();
        folder.images.decode(0, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 4, 5, 5, 6, 6]);
        let grey = ImageOptions { grey: true, size: Some((4, 4)) };
        let folder = Folder::open(&scratch.path(""), grey).unwrap();
        assert_eq!(folder.images.shape(), [1, 4, 4]);
        bytes.clear();
        folder.images.decode(2, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 16);
    }

    #[test]
    fn other_sizes_and_bad_files_are_refused() {
        let scratch = Scratch::new("bad-images");
        let open = || Folder::open(&scratch.path(""), ImageOptions::default()).err().unwrap();
        assert_eq!(
            Folder::open(&scratch.path("none"), ImageOptions::default()).err().unwrap().code,
            "file-read"
        );
        png(&scratch, "a/1.png", 2, 2, [0; 3]);
        png(&scratch, "a/2.png", 2, 3, [0; 3]);
        let failed = open();
        assert!(failed.code == "data-image" && failed.place[0].ends_with("2.png"), "{failed}");
        scratch.file("a/2.png", b"\x89PNG\r\n\x1a\nrubbish");
        assert_eq!(open().code, "data-image");
        std::fs::remove_dir_all(scratch.path("a")).unwrap();
        scratch.file("a/x.txt", b"");
        assert_eq!(open().code, "data-empty");
    }
}
