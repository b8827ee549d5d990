//! The products in a network, one by one: what its layers ask of the machine.

use half::bf16;

use crate::graph::Checked;
use crate::kernel::conv::{Conv, Write};
use crate::kernel::cpu::{Cpu, Workspace};
use crate::kernel::element::Element;
use crate::kernel::view::View;
use crate::ops::OpError;
use crate::ops::product::Product;

/// A convolution or linear layer of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The node's name.
    pub name: String,
    /// What it does to one sample.
    pub conv: Conv,
}

/// One of the three products that training wants of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The layer's values.
    Forward,
    /// The gradient of what it read.
    InputGradient,
    /// The gradient of its weight.
    WeightGradient,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Forward, Self::InputGradient, Self::WeightGradient];
}

/// Convolutions and linear layers of a graph, in its order.
///
/// # Errors
/// [`OpError`] when an operator's shapes do not work out, which a checked graph's do.
pub fn layers(graph: &Checked) -> Result<Vec<Layer>, OpError> {
    let mut all = Vec::new();
    for (node, sources) in graph.nodes.iter().zip(&graph.sources) {
        let Some(&source) = sources.first() else {
            continue;
        };
        if let Some(Product { conv }) = Product::of(&node.op, graph.shape(source))? {
            let name = node.name.clone();
            all.push(Layer { name, conv });
        }
    }
    Ok(all)
}

impl Layer {
    /// Operations of one product over a batch; a multiplication and an addition are two.
    #[must_use]
    pub fn flop(&self, batch: usize) -> f64 {
        let positions = self.conv.window.positions() * batch;
        2.0 * positions as f64 * self.conv.weight_len() as f64
    }

    /// Bytes that one product has to read and write at least, activations being f32 or (`halves`)
    /// bfloat16, weights f32.
    #[must_use]
    pub fn bytes(&self, batch: usize, halves: bool) -> f64 {
        let activations = batch * self.conv.window.image() + self.conv.output_len(batch);
        let size = if halves { 2 } else { 4 };
        (activations * size + self.conv.weight_len() * 4) as f64
    }

    /// Made-up numbers to run its products over; activations are f32 or (`halves`) bfloat16.
    #[must_use]
    pub fn trial(&self, batch: usize, halves: bool) -> Trial {
        let conv = self.conv.clone();
        if halves {
            Trial(Kind::Halves(Numbers::new(conv, batch)))
        } else {
            Trial(Kind::Floats(Numbers::new(conv, batch)))
        }
    }
}

/// A layer with a batch of numbers, see [`Layer::trial`].
#[derive(Debug)]
pub struct Trial(Kind);

#[derive(Debug)]
enum Kind {
    Floats(Numbers<f32>),
    Halves(Numbers<bf16>),
}

impl Trial {
    /// Computes one product.
    pub fn run(&mut self, cpu: &Cpu, way: Way) {
        match &mut self.0 {
            Kind::Floats(numbers) => numbers.run(cpu, way),
            Kind::Halves(numbers) => numbers.run(cpu, way),
        }
    }
}

#[derive(Debug)]
struct Numbers<T> {
    conv: Conv,
    batch: usize,
    x: Vec<T>,
    y: Vec<T>,
    weight: Vec<f32>,
    made: Vec<T>,
    gradient: Vec<f32>,
    workspace: Workspace,
}

impl<T: Element> Numbers<T> {
    fn new(conv: Conv, batch: usize) -> Self {
        // Neither zeros nor numbers whose sums overflow.
        let some = |n: usize| (0..n).map(|i| (i % 17) as f32 * 0.1 - 0.8);
        let (image, output) = (batch * conv.window.image(), conv.output_len(batch));
        Self {
            x: some(image).map(T::narrow).collect(),
            y: some(output).map(T::narrow).collect(),
            weight: some(conv.weight_len()).map(|w| w * 0.01).collect(),
            made: vec![T::default(); image.max(output)],
            gradient: vec![0.0; conv.weight_len()],
            workspace: Workspace::default(),
            conv,
            batch,
        }
    }

    fn run(&mut self, cpu: &Cpu, way: Way) {
        let (conv, batch, workspace) = (&self.conv, self.batch, &mut self.workspace);
        let (x, y) = (View::Plain(&self.x), View::Plain(&self.y));
        let (weight, made) = (&self.weight, &mut self.made);
        match way {
            Way::Forward => {
                let made = &mut made[..self.y.len()];
                conv.forward(cpu, workspace, batch, x, weight, made, |_| {});
            }
            Way::InputGradient => {
                let made = &mut made[..self.x.len()];
                conv.input_gradient(cpu, workspace, batch, y, weight, Write::Set, made, |_| {});
            }
            Way::WeightGradient => {
                conv.weight_gradient(cpu, workspace, batch, x, y, &mut self.gradient);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{Architecture, Norm};

    #[test]
    fn layers_of_a_network_add_up_to_what_it_costs() {
        let graph = Architecture::ResNet20
            .graph(&[3, 32, 32], 10, Norm::Batch)
            .unwrap()
            .check()
            .unwrap();
        let layers = layers(&graph).unwrap();
        // 19 convolutions on the way, two shortcuts or none, one linear layer.
        assert!(layers.len() >= 20, "{}", layers.len());
        let flop: f64 = layers.iter().map(|l| l.flop(1)).sum();
        assert!((8.0e7..8.4e7).contains(&flop), "{flop}");
        let first = &layers[0];
        assert_eq!(
            first.bytes(2, false),
            4.0 * (2.0 * 32.0 * 32.0 * 19.0 + 432.0)
        );
        let cpu = Cpu::new(1);
        for halves in [false, true] {
            let mut trial = layers[1].trial(2, halves);
            for way in Way::ALL {
                trial.run(&cpu, way);
            }
            let made = match trial.0 {
                Kind::Floats(numbers) => numbers.gradient,
                Kind::Halves(numbers) => numbers.gradient,
            };
            assert!(made.iter().any(|v| *v != 0.0) && made.iter().all(|v| v.is_finite()));
        }
    }
}
