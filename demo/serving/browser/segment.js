// What an exported model needs around it, without the model: its image tensor, and bitmaps of the masks that it finds.
// The same as runtime.py beside the model does; an image is an ImageData, RGBA.

/** Width and height of an image as the network sees it; `resize` are the metadata's `preprocessing.resize`. */
export function resizedSize(width, height, resize) {
  const [target, limit] = [Math.min(...resize.scale), Math.max(...resize.scale)];
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  if (resize.mode === 'exact') return resize.scale;
  if (resize.mode === 'keep_ratio' || resize.mode === 'fit') {
    const fits = Math.min(resize.scale[0] / width, resize.scale[1] / height);
    const factor = resize.mode === 'fit' ? fits : Math.min(limit / long, target / short);
    return [Math.floor(width * factor + 0.5), Math.floor(height * factor + 0.5)];
  }
  let side = target;
  if ((long / short) * target > limit) side = Math.max(roundHalfToEven((limit * short) / long), 1);
  const other = Math.floor((side * long) / short);
  return [width === short ? side : other, height === short ? side : other];
}

/**
 * The model's inputs, and the factors by which width and height grew: an image that is resized, normalized and padded,
 * and its `size` without padding; or, of a model that does this itself, the image as it is, blue, green, red.
 */
export function prepare(image, { preprocessing: settings, input_size: fixed }) {
  const [width, height] = resizedSize(image.width, image.height, settings.resize);
  if (!width || !height) throw new Error(`an image of ${image.width}x${image.height} pixels is too narrow`);
  if (settings.in_graph) {
    const images = new Uint8Array(3 * image.width * image.height);
    for (let i = 0; i < images.length; i++) images[i] = image.data[4 * Math.floor(i / 3) + 2 - (i % 3)];
    return { images, dims: [1, image.height, image.width, 3], scale: [1, 1] };
  }
  const pixels = resize(image, width, height, settings.resize.backend === 'pillow');
  const divisor = settings.pad_size_divisor;
  const [rows, columns] = fixed ?? [height, width].map((side) => Math.ceil(side / divisor) * divisor);
  const images = new Float32Array(3 * rows * columns).fill(settings.pad_value);
  for (let channel = 0; channel < 3; channel++) {
    // `mean` and `std` are in the order of the network's channels.
    const source = settings.bgr_to_rgb ? channel : 2 - channel;
    const [mean, std] = [Math.fround(settings.mean[channel]), Math.fround(settings.std[channel])];
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        images[(channel * rows + y) * columns + x] = Math.fround(pixels[(y * width + x) * 3 + source] - mean) / std;
  }
  return { images, dims: [1, 3, rows, columns], size: [height, width], scale: [width / image.width, height / image.height] };
}

/** Objects of the model's outputs that score at least `threshold`, boxes in pixels of the image, the best first. */
export function finish(outputs, scale, image, metadata, threshold) {
  const [rows, columns] = outputs.mask_probs.dims.slice(-2);
  // A fixed number of detections is filled up with zeros.
  const count = Number(outputs.num_detections?.data[0] ?? outputs.scores.data.length);
  const objects = [];
  outputs.scores.data.forEach((score, i) => {
    if (i >= count || score < threshold) return;
    let box = [0, 1, 2, 3].map((side) => Math.fround(outputs.boxes.data[4 * i + side] / Math.fround(scale[side % 2])));
    const probs = { rows, columns, data: outputs.mask_probs.data.subarray(i * rows * columns, (i + 1) * rows * columns) };
    const label = Number(outputs.labels.data[i]);
    const mask = metadata.inclusive_boxes
      ? pasteMask(...withRing(probs, box), image.width, image.height, metadata.mask_thr)
      : pasteMask(probs, box, image.width, image.height, metadata.mask_thr);
    if (metadata.inclusive_boxes) box = [box[0], box[1], box[2] + 1, box[3] + 1];
    objects.push({ box, score, label, name: metadata.classes[label], colour: metadata.palette[label], mask });
  });
  return objects;
}

/** A mask's part of the image: `left`, `top`, `width`, `height`, and `pixels`, 1 where the object is. */
export function pasteMask(probs, box, imageWidth, imageHeight, threshold) {
  const across = samples(box[0], box[2], probs.columns, imageWidth);
  const down = samples(box[1], box[3], probs.rows, imageHeight);
  const mask = { left: across.first, top: down.first, width: across.taps.length, height: down.taps.length };
  mask.pixels = new Uint8Array(mask.width * mask.height);
  down.taps.forEach((inColumn, y) =>
    across.taps.forEach((inRow, x) => {
      let value = 0;
      for (const [row, share] of inColumn)
        for (const [column, part] of inRow) value += share * part * probs.data[row * probs.columns + column];
      mask.pixels[y * mask.width + x] = value >= threshold;
    }),
  );
  return mask;
}

/** A mask with a border of zeros, and a box of whole pixels that grew with it: CenterMask's first implementation. */
function withRing(probs, [x1, y1, x2, y2]) {
  const [rows, columns] = [probs.rows + 2, probs.columns + 2];
  const data = new Float32Array(rows * columns);
  for (let row = 0; row < probs.rows; row++)
    data.set(probs.data.subarray(row * probs.columns, (row + 1) * probs.columns), (row + 1) * columns + 1);
  const grown = (low, high, factor) => {
    const [half, centre] = [(high - low) * 0.5 * factor, (high + low) * 0.5];
    return [Math.trunc(centre - half), Math.trunc(centre + half) + 1];
  };
  const [left, right] = grown(x1, x2, columns / probs.columns);
  const [top, bottom] = grown(y1, y2, rows / probs.rows);
  return [{ rows, columns, data }, [left, top, right, bottom]];
}

/** First pixel that a mask may reach, and for each pixel from there the samples that it mixes, [index, share]. */
function samples(low, high, size, length) {
  const first = Math.max(Math.floor(low) - 1, 0);
  const taps = [];
  for (let pixel = first; pixel < Math.min(Math.ceil(high) + 1, length); pixel++) {
    let place = ((pixel + 0.5 - low) / (high - low)) * size - 0.5;
    // As MMDetection does where a box has no extent.
    if (Math.abs(place) === Infinity) place = (size - 1) / 2;
    const before = Math.floor(place);
    taps.push([[before, 1 - (place - before)], [before + 1, place - before]].filter(([i]) => i >= 0 && i < size));
  }
  return { first, taps };
}

/** Red, green and blue of an image resized by a bilinear filter, as Pillow does or, within a level, as OpenCV does. */
function resize(image, width, height, pillow) {
  let pixels = new Uint8Array(image.width * image.height * 3);
  for (let i = 0; i < image.width * image.height; i++)
    pixels.set(image.data.subarray(4 * i, 4 * i + 3), 3 * i);
  pixels = resizeAxis(pixels, image.height, image.width, width, 3, pillow);
  return resizeAxis(pixels, 1, image.height, height, width * 3, pillow);
}

/** Resize the middle axis of an array of shape (outer, length, inner), in fixed point. */
function resizeAxis(pixels, outer, length, size, inner, pillow) {
  if (length === size) return pixels;
  const scale = length / size;
  // OpenCV takes two pixels, Pillow all that go into one.
  const support = pillow ? Math.max(scale, 1) : 1;
  const result = new Uint8Array(outer * size * inner);
  for (let i = 0; i < size; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), length);
    let weights = [];
    for (let j = first; j < last; j++) weights.push(Math.max(1 - Math.abs((j - centre + 0.5) / support), 0));
    const sum = weights.reduce((a, b) => a + b);
    weights = weights.map((weight) => Math.floor((weight / sum) * 2 ** 22 + 0.5));
    for (let o = 0; o < outer; o++)
      for (let k = 0; k < inner; k++) {
        let total = 2 ** 21;
        for (let j = first; j < last; j++) total += pixels[(o * length + j) * inner + k] * weights[j - first];
        result[(o * size + i) * inner + k] = Math.min(total >> 22, 255);
      }
  }
  return result;
}

function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
