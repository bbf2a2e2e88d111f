// One number, taken apart and put together again: everything from one `convolution` View, computed here.

import { arrayOf, axisSize, type View } from "../api/view";
import type { Position } from "./address";

export interface Geometry {
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
  readonly paddingValue: number;
}

export interface Convolution extends Geometry {
  readonly channels: number;
  readonly inputRows: number;
  readonly inputColumns: number;
  readonly kernelRows: number;
  readonly kernelColumns: number;
  readonly outputRows: number;
  readonly outputColumns: number;
  readonly input: ArrayLike<number>;
  readonly kernel: ArrayLike<number>;
  readonly channel: ArrayLike<number>;
  readonly bias: number;
  readonly output: ArrayLike<number>;
  readonly upstream: ArrayLike<number>;
  readonly weightGradient: ArrayLike<number>;
}

const pair = (value: unknown, otherwise: number): [number, number] =>
  Array.isArray(value) ? [Number(value[0]), Number(value[1] ?? value[0])] : [Number(value ?? otherwise), Number(value ?? otherwise)];

export function readConvolution(view: View): Convolution {
  const input = arrayOf(view, "input");
  const kernel = arrayOf(view, "kernel");
  const output = arrayOf(view, "output");
  return {
    stride: pair(view.meta.stride, 1),
    padding: pair(view.meta.padding, 0),
    dilation: pair(view.meta.dilation, 1),
    paddingValue: Number(view.meta.padding_value ?? 0),
    channels: axisSize(kernel, "channel"),
    inputRows: axisSize(input, "row"),
    inputColumns: axisSize(input, "column"),
    kernelRows: axisSize(kernel, "row"),
    kernelColumns: axisSize(kernel, "column"),
    outputRows: axisSize(output, "row"),
    outputColumns: axisSize(output, "column"),
    input: input.data,
    kernel: kernel.data,
    channel: arrayOf(view, "channel").data,
    bias: view.arrays.get("bias")?.data[0] ?? 0,
    output: output.data,
    upstream: arrayOf(view, "upstream").data,
    weightGradient: arrayOf(view, "weight_gradient").data,
  };
}

export interface Taken {
  /** [channel, row, column], as the kernel's. */
  readonly patch: Float32Array;
  readonly product: Float32Array;
  /** One sum per channel; their sum + bias is the result. */
  readonly sums: Float64Array;
  readonly result: number;
  /** d objective / d output here. */
  readonly upstream: number;
  /** This position's part of the weight gradient: upstream × patch. */
  readonly share: Float32Array;
}

/** The input patch under the kernel at one output position. */
export function takePatch(convolution: Convolution, { row, column }: Position): Float32Array {
  const { channels, kernelRows, kernelColumns, inputRows, inputColumns, stride, padding, dilation } = convolution;
  const patch = new Float32Array(channels * kernelRows * kernelColumns);
  let cell = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let down = 0; down < kernelRows; down++) {
      const from = row * stride[0] - padding[0] + down * dilation[0];
      for (let across = 0; across < kernelColumns; across++, cell++) {
        const beside = column * stride[1] - padding[1] + across * dilation[1];
        const inside = from >= 0 && from < inputRows && beside >= 0 && beside < inputColumns;
        patch[cell] = inside
          ? convolution.input[(channel * inputRows + from) * inputColumns + beside]
          : convolution.paddingValue;
      }
    }
  }
  return patch;
}

export function takeApart(convolution: Convolution, position: Position): Taken {
  const { channels, kernelRows, kernelColumns, kernel, outputColumns } = convolution;
  const size = kernelRows * kernelColumns;
  const patch = takePatch(convolution, position);
  const product = patch.map((value, cell) => value * kernel[cell]);
  const sums = new Float64Array(channels);
  for (let cell = 0; cell < product.length; cell++) sums[Math.floor(cell / size)] += patch[cell] * kernel[cell];
  const upstream = convolution.upstream[position.row * outputColumns + position.column];
  return {
    patch,
    product,
    sums,
    result: sums.reduce((sum, value) => sum + value, convolution.bias),
    upstream,
    share: patch.map((value) => value * upstream),
  };
}

/** Channels by the magnitude of their sums, largest first. */
export function strongestChannels(sums: ArrayLike<number>): number[] {
  return Array.from({ length: sums.length }, (_, channel) => channel).sort(
    (one, other) => Math.abs(sums[other]) - Math.abs(sums[one]) || one - other,
  );
}

/** How much each position adds to the weight gradient: |upstream| × ‖patch‖, [row, column]. */
export function shareNorms(convolution: Convolution): Float32Array {
  const { channels, inputRows, inputColumns, outputRows, outputColumns, stride, padding, dilation } = convolution;
  const squares = new Float64Array(inputRows * inputColumns);
  for (let channel = 0; channel < channels; channel++) {
    const start = channel * squares.length;
    for (let cell = 0; cell < squares.length; cell++) squares[cell] += convolution.input[start + cell] ** 2;
  }
  const outside = channels * convolution.paddingValue ** 2;
  const norms = new Float32Array(outputRows * outputColumns);
  for (let row = 0; row < outputRows; row++) {
    for (let column = 0; column < outputColumns; column++) {
      let sum = 0;
      for (let down = 0; down < convolution.kernelRows; down++) {
        const from = row * stride[0] - padding[0] + down * dilation[0];
        for (let across = 0; across < convolution.kernelColumns; across++) {
          const beside = column * stride[1] - padding[1] + across * dilation[1];
          const inside = from >= 0 && from < inputRows && beside >= 0 && beside < inputColumns;
          sum += inside ? squares[from * inputColumns + beside] : outside;
        }
      }
      const place = row * outputColumns + column;
      norms[place] = Math.abs(convolution.upstream[place]) * Math.sqrt(sum);
    }
  }
  return norms;
}

/** The patch's rectangle in the convolution's input, not clipped. */
export function patchBox(convolution: Geometry & Pick<Convolution, "kernelRows" | "kernelColumns">, { row, column }: Position) {
  const { stride, padding, dilation, kernelRows, kernelColumns } = convolution;
  return {
    row: row * stride[0] - padding[0],
    column: column * stride[1] - padding[1],
    rows: (kernelRows - 1) * dilation[0] + 1,
    columns: (kernelColumns - 1) * dilation[1] + 1,
  };
}
