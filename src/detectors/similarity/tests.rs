use rand_distr::{Distribution, StandardNormal};

use super::{
    on_gpu::{MARGIN, MOST},
    *,
};
use crate::ops::emulated;

fn normal(count: usize, name: &str) -> Vec<f32> {
    StandardNormal.sample_iter(crate::rng::stream(0, "similarity test", name)).take(count).collect()
}

/// Rows that are easy and hard to round: as after a ReLU, negative, constant, zero, with one element that outweighs the rest,
/// many that are nearly the same, and exact doubles.
fn rows(count: usize, columns: usize, name: &str) -> Vec<f32> {
    let mut values = normal(count * columns, name);
    for (index, row) in values.chunks_exact_mut(columns).enumerate() {
        match index % 8 {
            0 | 1 => row.iter_mut().for_each(|value| *value = value.max(0.0)),
            2 => row.iter_mut().for_each(|value| *value -= 3.0),
            3 => row.fill(0.25 * (index % 5) as f32),
            4 => row[index % columns] = -1e4,
            5 => row.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32 + *value * 1e-6),
            6 => row.iter_mut().enumerate().for_each(|(at, value)| *value = (at % 3) as f32),
            _ => {}
        }
    }
    values
}

/// All rows, the closest first.
fn by_all_products(known: &[f32], image: &[f32], of_squares: f64) -> Vec<Near> {
    let all = known.chunks_exact(image.len()).zip(0..).map(|(known, row)| {
        let closeness = product(image, known) - of_squares * product(known, known);
        Near { closeness, row }
    });
    let mut all: Vec<Near> = all.collect();
    all.sort_by(|a, b| b.cmp(a));
    all
}

#[test]
fn the_closest_are_those_of_all_products() {
    for (count, columns, k) in [(TILE + 700, 13, 7), (300, 40, 300), (1, 5, 1), (2000, 1, 50)] {
        let (known, images) = (rows(count, columns, "known"), rows(TOGETHER + 9, columns, "images"));
        let by_product = Neighbours::by_product(known.clone(), columns).unwrap();
        let by_distance = Neighbours::by_distance(known.clone(), columns).unwrap();
        for (neighbours, of_squares) in [(by_product, 0.0), (by_distance, 0.5)] {
            let found = neighbours.closest(&images, k).unwrap();
            for (image, found) in images.chunks_exact(columns).zip(&found) {
                let all = by_all_products(&known, image, of_squares);
                assert_eq!(found, &all[..k], "{count} rows of {columns}");
            }
        }
    }
}

/// No share of an image lies across a mean of zero.
#[test]
fn rows_may_lie_around_zero() {
    let columns = 24;
    let (half, images) = (rows(200, columns, "half"), rows(20, columns, "images"));
    // Each beside its opposite, so that sums are exact.
    let both = |row: &[f32]| [row.to_vec(), row.iter().map(|value| -value).collect()].concat();
    let known: Vec<f32> = half.chunks_exact(columns).flat_map(both).collect();
    let neighbours = Neighbours::by_product(known.clone(), columns).unwrap();
    assert!(neighbours.tiles.iter().any(|tile| tile.mean_length == 0.0), "no tile's mean is zero");
    for (image, found) in images.chunks_exact(columns).zip(neighbours.closest(&images, 9).unwrap()) {
        assert_eq!(found, &by_all_products(&known, image, 0.0)[..9]);
    }
}

/// The point of it: of many rows, few are multiplied in full, also where those of a class are nearly the same, or longer than an image.
#[test]
fn few_rows_are_candidates() {
    let columns = 64;
    let (known, centres) = (normal(8192 * columns, "known"), normal(4 * columns, "centres"));
    for (spread, size) in [(1.0, 1.0), (0.3, 1.0), (0.03, 1.0), (0.3, 7.0)] {
        let near = |(at, value): (usize, &f32)| centres[at / columns % 4 * columns + at % columns] + spread * value;
        let known: Vec<f32> = known.iter().enumerate().map(near).collect();
        let image = known[..columns].iter().zip(normal(columns, "image"));
        let image: Vec<f32> = image.map(|(value, noise)| value + 0.5 * spread * noise).collect();
        let known: Vec<f32> = known.into_iter().map(|value| size * value).collect();
        let neighbours = match size {
            1.0 => Neighbours::by_distance(known, columns).unwrap(),
            _ => Neighbours::by_product(known, columns).unwrap(),
        };
        let mut candidates = Candidates::new(10);
        for tile in &neighbours.tiles {
            neighbours.look_at(tile, &mut [(&image, &mut candidates)], &mut Room::default()).unwrap();
        }
        candidates.sift();
        assert!((10..120).contains(&candidates.found.len()), "{} at {spread}, {size}", candidates.found.len());
    }
}

/// Also where no row can be told from another, and candidates are more than are kept.
#[test]
fn of_equally_close_rows_the_first_are_found() {
    let (count, columns, k) = (2 * MOST_CANDIDATES + 5 * TILE, 3, 4);
    let mut known = vec![0.5; count * columns];
    known[(count - 1) * columns..].fill(0.6);
    let neighbours = Neighbours::by_distance(known, columns).unwrap();
    let found = neighbours.closest(&[0.6; 9], k).unwrap();
    for found in found {
        assert_eq!(found.iter().map(|near| near.row).collect::<Vec<_>>(), [count as u32 - 1, 0, 1, 2]);
    }
}

/// Rows of one direction and very different lengths: the farthest are parted from the rest one after another.
#[test]
fn outliers_do_not_make_a_tile_of_each() {
    let columns = 64;
    let known = normal(10_000 * columns, "known");
    let mut lengths = normal(10_000, "lengths").into_iter().map(f32::exp);
    let shift = |at: usize| if at.is_multiple_of(2) { 4.0 } else { 0.0 };
    let of = |row: &[f32]| {
        let length = lengths.next().unwrap();
        row.iter().enumerate().map(|(at, x)| length * (x + shift(at))).collect::<Vec<_>>()
    };
    let known: Vec<f32> = known.chunks_exact(columns).flat_map(of).collect();
    let neighbours = Neighbours::by_distance(known, columns).unwrap();
    assert!(neighbours.tiles.len() < 20, "{} tiles", neighbours.tiles.len());
}

/// A tile's reach is never less than the closeness of one of its rows, and most tiles of rows in clusters are out of it.
#[test]
fn tiles_too_far_away_are_not_looked_at() {
    let columns = 8;
    let (known, centres) = (normal(40_000 * columns, "known"), normal(16 * columns, "centres"));
    let near = |(at, value): (usize, &f32)| 9.0 * centres[at / columns % 16 * columns + at % columns] + value;
    let known: Vec<f32> = known.iter().enumerate().map(near).collect();
    let images = [&known[..20 * columns], &normal(20 * columns, "images")].concat();
    let neighbours = Neighbours::by_distance(known, columns).unwrap();
    assert!(neighbours.tiles.iter().all(|tile| tile.rows.len() <= TILE), "tiles are small");
    let mut out = 0;
    for (at, image) in images.chunks_exact(columns).enumerate() {
        let found = &neighbours.closest(image, 3).unwrap()[0];
        let squares = product(image, image);
        for tile in &neighbours.tiles {
            let reach = tile.reach(product(image, &tile.mean), squares);
            let closeness = |row: &u32| product(image, neighbours.row(*row)) + neighbours.offsets[*row as usize];
            assert!(tile.rows.iter().all(|row| closeness(row) <= reach), "a row is closer than its tile reaches");
            // Of images beside their cluster.
            out += usize::from(at < 20 && reach < found[2].closeness);
        }
    }
    let pairs = 20 * neighbours.tiles.len();
    assert!(2 * out > pairs, "{out} of {pairs} tiles are out of reach");
}

#[test]
fn too_many_columns_are_refused() {
    let error = Neighbours::by_product(vec![0.0; MOST_COLUMNS + 1], MOST_COLUMNS + 1).err().unwrap();
    assert!(error.to_string().starts_with("66001 features are too many"), "{error}");
}

/// Unit vectors of 4 directions and `spread` around them.
fn units(count: usize, columns: usize, spread: f32, name: &str) -> Vec<f32> {
    let (mut values, centres) = (normal(count * columns, name), normal(4 * columns, "centres"));
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        let centre = &centres[row % 4 * columns..][..columns];
        values.iter_mut().zip(centre).for_each(|(value, centre)| *value = centre + spread * *value);
        let length = product(values, values).sqrt() as f32;
        values.iter_mut().for_each(|value| *value /= length);
    }
    values
}

/// On the CPU and on the emulated GPU, closeness to the bit; how many images the GPU leaves open, if it has the rows.
#[track_caller]
fn on_both(
    neighbours: fn(Vec<f32>, usize) -> Result<Neighbours>,
    known: &[f32],
    images: &[f32],
    columns: usize,
    k: usize,
) -> Option<usize> {
    let expected = neighbours(known.to_vec(), columns).unwrap().closest(images, k).unwrap();
    emulated(|| {
        let on_gpu = neighbours(known.to_vec(), columns).unwrap().on(Some(&Device::Cpu));
        let found = on_gpu.closest(images, k).unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!((found.closeness.to_bits(), found.row), (expected.closeness.to_bits(), expected.row));
        }
        let sure = on_gpu.on_gpu.as_ref()?.surely_closest(&on_gpu, images, k).unwrap();
        Some(sure.iter().filter(|found| found.is_none()).count())
    })
}

#[test]
fn a_gpu_finds_the_same_rows() {
    for (columns, k) in [(3, 1), (64, 9), (176, 50), (64, 1)] {
        for spread in [1.0, 0.3] {
            let (known, images) = (units(900, columns, spread, "known"), units(70, columns, spread, "images"));
            for neighbours in [Neighbours::by_distance, Neighbours::by_product] {
                let open = on_both(neighbours, &known, &images, columns, k);
                assert_eq!(open, Some(0), "{columns} columns, {k} rows: f32 is enough");
            }
        }
    }
    // Fewer rows than are found, and all of them.
    for k in [1, 20] {
        let open = on_both(Neighbours::by_distance, &units(20, 64, 1.0, "known"), &units(5, 64, 1.0, "images"), 64, k);
        assert_eq!(open, Some(0));
    }
}

/// Rows that are hard to round, and rows and images of zeros.
#[test]
fn a_gpu_leaves_open_what_f32_does() {
    let (columns, k) = (40, 7);
    let (mut known, mut images) = (rows(600, columns, "known"), rows(50, columns, "images"));
    known[..2 * columns].fill(0.0);
    images[3 * columns..4 * columns].fill(0.0);
    for neighbours in [Neighbours::by_distance, Neighbours::by_product] {
        let open = on_both(neighbours, &known, &images, columns, k).unwrap();
        assert!(open > 0, "none is open");
    }
}

/// As many rows are nearly the same as the GPU finds: by f32, others may be as close to images that are near to these.
#[test]
fn where_the_margin_is_not_enough_the_cpu_looks() {
    let (columns, k) = (64, 9);
    let (mut known, images) = (units(900, columns, 1.0, "known"), units(40, columns, 1.0, "images"));
    let same =
        |row: &[f32], at: usize| row.iter().map(|value| value * (1.0 + 1e-7 * (at % 5) as f32)).collect::<Vec<_>>();
    for at in 0..k + MARGIN {
        // In the direction of the fifth image, hardly any two of one length.
        known[7 * at * columns..][..columns].copy_from_slice(&same(&images[5 * columns..6 * columns], at));
    }
    for neighbours in [Neighbours::by_distance, Neighbours::by_product] {
        let open = on_both(neighbours, &known, &images, columns, k).unwrap();
        assert!((1..40).contains(&open), "{open} images are open");
    }
    // One fewer, and all of them are found, with one that is farther.
    known[..columns].copy_from_slice(&units(1, columns, 1.0, "another"));
    let image = &images[5 * columns..6 * columns];
    assert_eq!(on_both(Neighbours::by_distance, &known, image, columns, k), Some(0));
}

#[test]
fn a_gpu_is_left_alone_where_it_cannot_help() {
    let columns = 8;
    let (known, images) = (units(MOST + 50, columns, 1.0, "known"), units(3, columns, 1.0, "images"));
    // More rows than its lists hold.
    let (neighbours, on_cpu) = (|| Neighbours::by_distance(known.clone(), columns).unwrap(), MOST + 1);
    let expected = neighbours().closest(&images, on_cpu).unwrap();
    let on_gpu = emulated(|| neighbours().on(Some(&Device::Cpu)));
    assert!(on_gpu.on_gpu.is_some());
    assert_eq!(on_gpu.closest(&images, on_cpu).unwrap(), expected);
    // Not emulated: there is no GPU to ask, so the CPU looks.
    assert!(on_gpu.on_gpu.as_ref().unwrap().surely_closest(&on_gpu, &images, 1).is_err());
    assert_eq!(on_gpu.closest(&images, 1).unwrap(), neighbours().closest(&images, 1).unwrap());
    // No GPU, none given, or one without room.
    assert!(
        neighbours().on(Some(&Device::Cpu)).on_gpu.is_none() && emulated(|| neighbours().on(None)).on_gpu.is_none()
    );
    for (free, has_room) in [(0, false), (1 << 30, false), ((1 << 30) + (1 << 17), true)] {
        assert_eq!(OnGpu::in_memory(&neighbours(), &Device::Cpu, free).is_some(), has_room, "{free} bytes are free");
    }
    // Lengths that f32 cannot tell apart.
    for length in [1e-30, 1e15] {
        let known = known.iter().map(|value| value * length).collect();
        let neighbours = Neighbours::by_distance(known, columns).unwrap();
        assert!(emulated(|| neighbours.on(Some(&Device::Cpu))).on_gpu.is_none());
    }
    // Of images, these alone.
    let mut images = images;
    images[..columns].iter_mut().for_each(|value| *value *= 1e-30);
    assert_eq!(on_both(Neighbours::by_product, &known, &images, columns, 3), Some(1));
    // And what the CPU refuses is refused.
    images[..columns].iter_mut().enumerate().for_each(|(at, value)| *value = if at % 2 == 0 { 3e38 } else { -3e38 });
    let on_gpu = emulated(|| neighbours().on(Some(&Device::Cpu)));
    let [cpu, gpu] = [neighbours().closest(&images, 3), emulated(|| on_gpu.closest(&images, 3))];
    assert_eq!(cpu.unwrap_err().to_string(), gpu.unwrap_err().to_string());
}

/// Closeness in f32 is never farther from that in f64 than is said.
#[test]
fn closeness_in_f32_is_as_near_as_is_said() {
    for columns in [1, 31, 33, 176, 700] {
        let count = 120;
        for (known, images) in [
            (units(count, columns, 0.2, "known"), units(9, columns, 0.2, "images")),
            (rows(count, columns, "known"), rows(9, columns, "images")),
            // All of one sign, and nothing exact.
            (vec![1.1; count * columns], normal(9 * columns, "images").into_iter().map(f32::abs).collect()),
        ] {
            let neighbours = Neighbours::by_distance(known, columns).unwrap();
            let on_gpu = emulated(|| neighbours.on(Some(&Device::Cpu)));
            let held = on_gpu.on_gpu.as_ref().unwrap();
            let found = emulated(|| held.found(&images, columns, count)).unwrap();
            for (image, found) in images.chunks_exact(columns).zip(found.chunks_exact(count)) {
                let error = held.error(columns, product(image, image).sqrt());
                for [closeness, row] in found {
                    let exact = product(image, on_gpu.row(*row as u32)) + on_gpu.offsets[*row as usize];
                    assert!((closeness - exact).abs() <= error, "{closeness}, {exact} exactly, off by {error} at most");
                }
            }
        }
    }
}
