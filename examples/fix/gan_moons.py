"""A GAN in the plane, on two moons. Prints how far its samples are from points it has not seen."""

import argparse

import torch
import torch.nn as nn
from sklearn.datasets import make_moons

parser = argparse.ArgumentParser()
parser.add_argument("--n_iter", type=int, default=300)
parser.add_argument("--batch_size", type=int, default=128)
parser.add_argument("--latent_dim", type=int, default=8)
parser.add_argument("--lr_g", type=float, default=1e-4)
parser.add_argument("--lr_d", type=float, default=2e-3)
parser.add_argument("--b1", type=float, default=0.0)
parser.add_argument("--seed", type=int, default=0)
opt = parser.parse_args()
print(opt)

torch.manual_seed(opt.seed)
torch.set_num_threads(1)

moons, _ = make_moons(4000, noise=0.05, random_state=opt.seed)
points = torch.tensor((moons - moons.mean(0)) / moons.std(0), dtype=torch.float32)
train_points, test_points = points[:3500], points[3500:]


class Generator(nn.Module):
    def __init__(self):
        super().__init__()

        def block(in_feat, out_feat):
            return [nn.Linear(in_feat, out_feat), nn.LeakyReLU(0.2)]

        self.model = nn.Sequential(
            *block(opt.latent_dim, 128),
            *block(128, 128),
            *block(128, 128),
            *block(128, 128),
            *block(128, 128),
            nn.Linear(128, 2),
        )

    def forward(self, z):
        return self.model(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(2, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, 1),
        )

    def forward(self, x):
        return self.model(x)


def weights_init_normal(m):
    if isinstance(m, nn.Linear):
        torch.nn.init.normal_(m.weight.data, 0.0, 0.02)
        torch.nn.init.constant_(m.bias.data, 0.0)


adversarial_loss = torch.nn.BCEWithLogitsLoss()
generator = Generator()
discriminator = Discriminator()
generator.apply(weights_init_normal)

optimizer_G = torch.optim.Adam(generator.parameters(), lr=opt.lr_g, betas=(opt.b1, 0.999))
optimizer_D = torch.optim.Adam(discriminator.parameters(), lr=opt.lr_d, betas=(opt.b1, 0.999))


def energy_distance(a, b):
    """0 for two samples of one distribution (Szekely and Rizzo 2013)."""
    return 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()


for i in range(opt.n_iter):
    real_points = train_points[torch.randint(len(train_points), (opt.batch_size,))]
    valid = torch.ones(opt.batch_size, 1)
    fake = torch.zeros(opt.batch_size, 1)

    # -----------------
    #  Train Generator
    # -----------------
    optimizer_G.zero_grad()
    z = torch.randn(opt.batch_size, opt.latent_dim)
    gen_points = generator(z)
    g_loss = adversarial_loss(discriminator(gen_points), valid)
    g_loss.backward()
    optimizer_G.step()

    # ---------------------
    #  Train Discriminator
    # ---------------------
    optimizer_D.zero_grad()
    real_loss = adversarial_loss(discriminator(real_points), valid)
    fake_loss = adversarial_loss(discriminator(gen_points.detach()), fake)
    d_loss = (real_loss + fake_loss) / 2
    d_loss.backward()
    optimizer_D.step()

    if (i + 1) % 25 == 0:
        with torch.no_grad():
            samples = generator(torch.randn(len(test_points), opt.latent_dim))
            distance = energy_distance(samples, test_points)
        print(
            "[Iter %d/%d] [D loss: %f] [G loss: %f] [test distance: %.4f]"
            % (i + 1, opt.n_iter, d_loss.item(), g_loss.item(), distance.item())
        )

# Truth: DCGAN's N(0, 0.02) without batch norm: every latent gives the same point.
