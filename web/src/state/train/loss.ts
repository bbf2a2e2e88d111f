// A loss term by term, from the scores alone.

export interface SoftmaxTerms {
  readonly exponential: Float64Array;
  readonly probability: Float64Array;
  /** What each class adds to the loss: only the true one does. */
  readonly term: Float64Array;
  readonly gradient: Float64Array;
  readonly loss: number;
}

/** loss = −log p(true); dLoss/ds = p − [true]. The largest score is taken off first: nothing overflows. */
export function softmaxTerms(scores: ArrayLike<number>, label: number): SoftmaxTerms {
  const largest = Math.max(...Array.from(scores));
  const exponential = Float64Array.from(scores, (score) => Math.exp(score - largest));
  const sum = exponential.reduce((total, value) => total + value, 0);
  const probability = exponential.map((value) => value / sum);
  const loss = Math.log(sum) - (scores[label] - largest);
  return {
    exponential,
    probability,
    term: probability.map((_, index) => (index === label ? loss : 0)),
    gradient: probability.map((value, index) => value - Number(index === label)),
    loss,
  };
}

export interface SvmTerms {
  readonly margin: Float64Array;
  readonly term: Float64Array;
  readonly gradient: Float64Array;
  readonly loss: number;
}

/** loss = Σ over the other classes of max(0, s − s(true) + margin). */
export function svmTerms(scores: ArrayLike<number>, label: number, margin = 1): SvmTerms {
  const margins = Float64Array.from(scores, (score, index) => (index === label ? 0 : score - scores[label] + margin));
  const term = margins.map((value) => Math.max(0, value));
  const violated = term.filter((value) => value > 0).length;
  return {
    margin: margins,
    term,
    gradient: term.map((value, index) => (index === label ? -violated : Number(value > 0))),
    loss: term.reduce((total, value) => total + value, 0),
  };
}
