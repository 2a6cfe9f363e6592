// Runs the model beside the page, which stays usable.
import * as ort from './node_modules/onnxruntime-web/dist/ort.wasm.min.mjs';
import { finish, prepare } from './segment.js';

// Several threads need a server that isolates the page (COOP and COEP headers).
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

let session, metadata;
// Of the last image: another threshold needs no other run.
let outputs, scale, size;

/** Load a model; what the page leaves out of its results, if anything. */
async function load(folder) {
  const fetched = async (name) => {
    const response = await fetch(`${folder}/${name}`);
    if (!response.ok) throw new Error(`${folder}/${name} cannot be read: put the exported folder there`);
    return response;
  };
  ({ metadata } = await (await fetched('report.json')).json());
  if (![1, 2].includes(metadata.runtime_version)) throw new Error(`${folder}: this page cannot read version ${metadata.runtime_version}`);
  session = await ort.InferenceSession.create(await (await fetched('model.onnx')).arrayBuffer());
  return metadata.panoptic ? 'This page shows the instances of a panoptic model; runtime.py merges them with the stuff.' : '';
}

/** Objects of an image, or, without one, of the last. */
async function segment(image, threshold) {
  if (image) {
    outputs = undefined;
    const prepared = prepare(image, metadata);
    const inputs = { images: new ort.Tensor(prepared.images, prepared.dims) };
    if (prepared.size) inputs.image_sizes = new ort.Tensor(BigInt64Array.from(prepared.size, BigInt), [1, 2]);
    outputs = await session.run(inputs);
    ({ scale } = prepared);
    size = { width: image.width, height: image.height };
  }
  return outputs ? finish(outputs, scale, size, metadata, threshold) : [];
}

// One after another: a session runs one image at a time.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last
    .then(() => (data.folder ? load(data.folder) : segment(data.image, data.threshold)))
    .then((result) => self.postMessage({ id: data.id, result }))
    .catch((error) => self.postMessage({ id: data.id, error: error.message }));
};
