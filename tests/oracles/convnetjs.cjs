// Runs ConvNetJS itself on a network, weights and images read from standard input; prints all it computed.
//
// In:  {definition: [layer definitions as on ConvNetJS's page], parameters: [{filters: [[number]], biases: [number]}]
//       (one for each conv and fc layer in order), images: [[number]], labels: [class]}
// Out: [for each image: {loss, layers: [for each layer, the input first: {type, size: [rows, columns, depth], activation,
//       gradient, filters: [gradients], biases: gradients}]}]
// Every list of numbers is in the order of ConvNetJS's Vol: row, column, depth.
"use strict";

const { readFileSync, writeSync } = require("node:fs");
const convnetjs = require("convnetjs");

function setParameters(net, parameters) {
  const holders = net.layers.filter((layer) => layer.filters);
  if (holders.length !== parameters.length) {
    throw new Error(`${parameters.length} sets of parameters for ${holders.length} layers that have any`);
  }
  holders.forEach((layer, index) => {
    const given = parameters[index];
    [...layer.filters, layer.biases].forEach((volume, unit) => {
      const values = unit < layer.filters.length ? given.filters[unit] : given.biases;
      if (volume.w.length !== values.length) {
        throw new Error(`${layer.layer_type} ${index}: ${values.length} numbers for ${volume.w.length}`);
      }
      volume.w.set(values);
    });
  });
}

function forwardAndBackward(net, image, label) {
  const { out_sx: columns, out_sy: rows, out_depth: depth } = net.layers[0];
  const volume = new convnetjs.Vol(columns, rows, depth, 0);
  if (image.length !== volume.w.length) {
    throw new Error(`${image.length} numbers for an image of ${volume.w.length}`);
  }
  volume.w.set(image);
  // ConvNetJS adds every backward pass to the gradients that are there already.
  for (const { grads } of net.getParamsAndGrads()) {
    grads.fill(0);
  }
  net.forward(volume, false);
  const loss = net.backward(label);
  const layers = net.layers.map((layer) => ({
    type: layer.layer_type,
    size: [layer.out_sy, layer.out_sx, layer.out_depth],
    activation: Array.from(layer.out_act.w),
    gradient: Array.from(layer.out_act.dw),
    filters: (layer.filters ?? []).map((filter) => Array.from(filter.dw)),
    biases: Array.from(layer.biases?.dw ?? []),
  }));
  return { loss, layers };
}

const { definition, parameters, images, labels } = JSON.parse(readFileSync(0, "utf8"));
const net = new convnetjs.Net();
net.makeLayers(definition);
setParameters(net, parameters);
const answer = JSON.stringify(images.map((image, index) => forwardAndBackward(net, image, labels[index])));
for (let written = 0, bytes = Buffer.from(answer); written < bytes.length; ) {
  written += writeSync(1, bytes, written);
}
