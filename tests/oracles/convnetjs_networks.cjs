// ConvNetJS's own files and its own trainer, run on what standard input says; prints all that came out.
//
// In:  {network: JSON text of a network | definition: [layer definitions], images: [[number]], labels: [class],
//       trainer: {method, …} to train on the images one after the other, or nothing}
// Out: {before: JSON text, images: [{output: [number], loss, filters: [[[number]]] by layer}] if not trained,
//       losses: [number] of each image while training, after: JSON text}
"use strict";

const { readFileSync, writeSync } = require("node:fs");
const convnetjs = require("convnetjs");

const { network, definition, images, labels, trainer } = JSON.parse(readFileSync(0, "utf8"));
const net = new convnetjs.Net();
if (network) {
  net.fromJSON(JSON.parse(network));
} else {
  net.makeLayers(definition);
}
const before = JSON.stringify(net.toJSON());

function volumeOf(image) {
  const { out_sx: columns, out_sy: rows, out_depth: depth } = net.layers[0];
  const volume = new convnetjs.Vol(columns, rows, depth, 0);
  volume.w.set(image);
  return volume;
}

function look(image, label) {
  for (const { grads } of net.getParamsAndGrads()) {
    grads.fill(0);
  }
  const output = Array.from(net.forward(volumeOf(image), false).w);
  const loss = net.backward(label);
  const filters = net.layers
    .filter((layer) => layer.filters)
    .map((layer) => [...layer.filters, layer.biases].map((volume) => Array.from(volume.dw)));
  return { output, loss, filters };
}

const answer = { before };
if (trainer) {
  const trains = new convnetjs.Trainer(net, trainer);
  answer.losses = images.map((image, index) => trains.train(volumeOf(image), labels[index]).cost_loss);
} else {
  answer.images = images.map((image, index) => look(image, labels[index]));
}
answer.after = JSON.stringify(net.toJSON());
for (let written = 0, bytes = Buffer.from(JSON.stringify(answer)); written < bytes.length; ) {
  written += writeSync(1, bytes, written);
}
