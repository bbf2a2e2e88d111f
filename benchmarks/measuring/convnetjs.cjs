// ConvNetJS's own CIFAR-10 training in Node, as its page does it: prints, every second, examples trained and seconds.
//
// Arguments: seconds to train, how many examples at most, a file of examples (3,073 bytes each: label, then the pixels
// by channel, row and column, as in CIFAR-10's binary version), the folder with node_modules.
// The page draws after every example, too; here nothing is drawn, so this is faster than what a visitor sees.
"use strict";

const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const [seconds, most, file, modules] = process.argv.slice(2);
const convnetjs = require(join(modules, "convnetjs"));
const records = readFileSync(file);
const RECORD = 3073;
const count = records.length / RECORD;

const net = new convnetjs.Net();
net.makeLayers([
  { type: "input", out_sx: 32, out_sy: 32, out_depth: 3 },
  { type: "conv", sx: 5, filters: 16, stride: 1, pad: 2, activation: "relu" },
  { type: "pool", sx: 2, stride: 2 },
  { type: "conv", sx: 5, filters: 20, stride: 1, pad: 2, activation: "relu" },
  { type: "pool", sx: 2, stride: 2 },
  { type: "conv", sx: 5, filters: 20, stride: 1, pad: 2, activation: "relu" },
  { type: "pool", sx: 2, stride: 2 },
  { type: "softmax", num_classes: 10 },
]);
const trainer = new convnetjs.Trainer(net, { method: "adadelta", batch_size: 4, l2_decay: 0.0001 });

function example(index) {
  const start = index * RECORD;
  const volume = new convnetjs.Vol(32, 32, 3, 0);
  for (let place = 0; place < 1024; place++) {
    for (let channel = 0; channel < 3; channel++) {
      volume.w[place * 3 + channel] = records[start + 1 + channel * 1024 + place] / 255 - 0.5;
    }
  }
  const move = () => Math.floor(Math.random() * 5) - 2;
  return [convnetjs.augment(volume, 32, move(), move(), Math.random() < 0.5), records[start]];
}

const began = process.hrtime.bigint();
const elapsed = () => Number(process.hrtime.bigint() - began) / 1e9;
let trained = 0;
let said = 0;
while (elapsed() < Number(seconds) && trained < Number(most)) {
  const [image, label] = example(Math.floor(Math.random() * count));
  trainer.train(image, label);
  trained++;
  if (elapsed() - said >= 1) {
    said = elapsed();
    console.log(JSON.stringify({ examples: trained, seconds: said }));
  }
}
console.log(JSON.stringify({ examples: trained, seconds: elapsed() }));
