"""Small networks written the way users of PyTorch write them; their exports are test data.

The sizes are small so that the files are; the structure is that of the real thing.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


# --- ResNet: bottleneck blocks as in ResNet-50 ----------------------------------------------------------------------


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + identity)


class ResNet(nn.Module):
    def __init__(self, stem=16, widths=(8, 12), blocks=2, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        layers, channels = [], stem
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Bottleneck(channels, width, stride))
                channels = width * Bottleneck.expansion
        self.layers = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, image):
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.avgpool(self.layers(x))
        return self.fc(torch.flatten(x, 1))


# --- attention, spelled out or by the framework's function ----------------------------------------------------------


def attention_by_hand(query, key, value, mask):
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(F.softmax(scores, dim=-1), value)


def attention_by_framework(query, key, value, mask):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


# --- BERT-like encoder ----------------------------------------------------------------------------------------------


class EncoderLayer(nn.Module):
    def __init__(self, width, heads, inner, attention):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.intermediate = nn.Linear(width, inner)
        self.activation = nn.GELU()
        self.dense = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def split(self, x):
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, x, mask):
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        mixed = self.attention(query, key, value, mask).transpose(1, 2)
        mixed = mixed.reshape(x.shape)
        x = self.norm1(self.output(mixed) + x)
        return self.norm2(self.dense(self.activation(self.intermediate(x))) + x)


class Bert(nn.Module):
    def __init__(self, attention, layers=2, width=32, heads=4, inner=128, vocabulary=128, longest=32):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner, attention) for _ in range(layers))
        self.pooler = nn.Linear(width, width)
        self.register_buffer("position_ids", torch.arange(longest).unsqueeze(0), persistent=False)

    def forward(self, input_ids, attention_mask, token_type_ids):
        length = input_ids.size(1)
        x = self.words(input_ids) + self.kinds(token_type_ids) + self.positions(self.position_ids[:, :length])
        x = self.norm(x)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        return x, torch.tanh(self.pooler(x[:, 0]))


# --- GPT ------------------------------------------------------------------------------------------------------------


class NewGelu(nn.Module):
    """GELU by the tanh formula, spelled out as in the GPT-2 code."""

    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class Block(nn.Module):
    def __init__(self, width, heads, by_framework):
        super().__init__()
        self.heads, self.by_framework = heads, by_framework
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.act = nn.GELU(approximate="tanh") if by_framework else NewGelu()
        self.mlp_proj = nn.Linear(4 * width, width)

    def forward(self, x, past=None):
        batch, length, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        query, key, value = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        if past is not None:
            key = torch.cat((past[0], key), dim=-2)
            value = torch.cat((past[1], value), dim=-2)
        mixed = self.causal(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.c_proj(mixed)
        x = x + self.mlp_proj(self.act(self.c_fc(self.ln_2(x))))
        return x, key, value

    def causal(self, query, key, value):
        """A query at place i of n new ones sees the first (all - n + i + 1) keys."""
        length, all_ = query.size(-2), key.size(-2)
        places = torch.arange(all_, device=query.device)
        seen = places[None, :] <= places[all_ - length :][:, None]
        if self.by_framework:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return torch.matmul(F.softmax(scores, dim=-1), value)


class Gpt(nn.Module):
    def __init__(self, by_framework, layers=2, width=32, heads=4, vocabulary=96, longest=32):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block(width, heads, by_framework) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, input_ids):
        positions = torch.arange(input_ids.size(1), device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(positions)
        for block in self.blocks:
            x, _, _ = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


class GptWithCache(Gpt):
    """Takes the keys and values of the tokens before, and gives them back with the new ones appended."""

    def forward(self, input_ids, past_key_0, past_value_0, past_key_1, past_value_1):
        before = past_key_0.size(2)
        positions = torch.arange(before, before + input_ids.size(1), device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(positions)
        present = []
        for block, past in zip(self.blocks, [(past_key_0, past_value_0), (past_key_1, past_value_1)]):
            x, key, value = block(x, past)
            present += [key, value]
        return F.linear(self.ln_f(x), self.wte.weight), *present
