//! The names that others give to the parameters of a U-Net: those of DDPM's code in PyTorch, of diffusers before 2023, and of improved DDPM's
//! and ADM's code.
//!
//! Of DDPM's code: `conversion_scripts/convert_ddpm_original_checkpoint_to_diffusers.py` of diffusers says which is which; its levels on the way
//! up are numbered from the finest. Of older diffusers: `_convert_deprecated_attention_blocks`. Of ADM's: `unet.py` of
//! `openai/guided-diffusion`, which numbers the blocks of all levels, and with them what changes rows and columns.

use super::Settings;

/// Our name for another program's name of a parameter.
pub fn our_name(theirs: &str, settings: &Settings) -> Option<String> {
    let levels = settings.multipliers.len();
    let parts: Vec<&str> = theirs.split('.').collect();
    let (last, rest) = parts.split_last()?;
    let place = match rest {
        ["temb", "dense", number @ ("0" | "1")] => {
            format!("time_embedding.linear_{}", number.parse::<usize>().ok()? + 1)
        }
        ["label_emb"] => "class_embedding".to_owned(),
        ["norm_out"] => "conv_norm_out".to_owned(),
        ["down", level, rest @ ..] => format!("down_blocks.{level}.{}", in_level(rest)?),
        ["up", level, rest @ ..] => {
            let level = levels.checked_sub(level.parse::<usize>().ok()? + 1)?;
            format!("up_blocks.{level}.{}", in_level(rest)?)
        }
        ["mid", "block_1", rest @ ..] => format!("mid_block.resnets.0.{}", in_block(rest)),
        ["mid", "block_2", rest @ ..] => format!("mid_block.resnets.1.{}", in_block(rest)),
        ["mid", "attn_1", rest @ ..] => format!("mid_block.attentions.0.{}", in_attention(rest)),
        ["time_embed", "0"] => "time_embedding.linear_1".to_owned(),
        ["time_embed", "2"] => "time_embedding.linear_2".to_owned(),
        ["input_blocks", "0", "0"] => "conv_in".to_owned(),
        ["input_blocks", number, _, rest @ ..] => {
            let number = number.parse::<usize>().ok()?.checked_sub(1)?;
            let (level, number) = (number / (settings.blocks + 1), number % (settings.blocks + 1));
            let resampler = (number == settings.blocks).then_some("downsamplers");
            format!("down_blocks.{level}.{}", in_adm(rest, number, resampler)?)
        }
        ["output_blocks", number, place, rest @ ..] => {
            let number = number.parse::<usize>().ok()?;
            let (level, number) = (number / (settings.blocks + 1), number % (settings.blocks + 1));
            // What changes rows and columns comes after the last block, and its attention.
            let resampler = (*place != "0").then_some("upsamplers");
            format!("up_blocks.{level}.{}", in_adm(rest, number, resampler)?)
        }
        ["middle_block", "0", rest @ ..] => format!("mid_block.resnets.0.{}", in_adm_block(rest)?),
        ["middle_block", "1", rest @ ..] => format!("mid_block.attentions.0.{}", in_attention(rest)),
        ["middle_block", "2", rest @ ..] => format!("mid_block.resnets.1.{}", in_adm_block(rest)?),
        ["out", "0"] => "conv_norm_out".to_owned(),
        ["out", "2"] => "conv_out".to_owned(),
        // All others of ours are theirs.
        [before @ .., "attentions", number, layer] => {
            format!("{}.attentions.{number}.{}", before.join("."), in_attention(&[layer]))
        }
        _ => return None,
    };
    Some(format!("{place}.{last}"))
}

fn in_level(parts: &[&str]) -> Option<String> {
    Some(match parts {
        ["block", number, rest @ ..] => format!("resnets.{number}.{}", in_block(rest)),
        ["attn", number, rest @ ..] => format!("attentions.{number}.{}", in_attention(rest)),
        ["downsample", _] => "downsamplers.0.conv".to_owned(),
        ["upsample", _] => "upsamplers.0.conv".to_owned(),
        _ => return None,
    })
}

fn in_block(parts: &[&str]) -> String {
    match parts {
        ["temb_proj"] => "time_emb_proj".to_owned(),
        ["nin_shortcut"] => "conv_shortcut".to_owned(),
        _ => parts.join("."),
    }
}

fn in_attention(parts: &[&str]) -> String {
    match parts {
        ["norm"] => "group_norm".to_owned(),
        ["q" | "query"] => "to_q".to_owned(),
        ["k" | "key"] => "to_k".to_owned(),
        ["v" | "value"] => "to_v".to_owned(),
        ["proj_out" | "proj_attn"] => "to_out.0".to_owned(),
        _ => parts.join("."),
    }
}

/// Of a numbered block of ADM's, or of what changes rows and columns.
fn in_adm(parts: &[&str], number: usize, resampler: Option<&str>) -> Option<String> {
    Some(match (parts, resampler) {
        (["norm" | "qkv" | "proj_out"], _) => format!("attentions.{number}.{}", in_attention(parts)),
        (["op" | "conv"], Some(resampler)) => format!("{resampler}.0.conv"),
        (_, Some(resampler)) => format!("{resampler}.0.{}", in_adm_block(parts)?),
        (_, None) => format!("resnets.{number}.{}", in_adm_block(parts)?),
    })
}

fn in_adm_block(parts: &[&str]) -> Option<String> {
    let name = match parts {
        ["in_layers", "0"] => "norm1",
        ["in_layers", "2"] => "conv1",
        ["emb_layers", "1"] => "time_emb_proj",
        ["out_layers", "0"] => "norm2",
        ["out_layers", "3"] => "conv2",
        ["skip_connection"] => "conv_shortcut",
        _ => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::Settings, our_name};

    #[test]
    fn names_of_ddpm_of_older_diffusers_and_of_adm_are_ours() {
        let settings = Settings::default();
        for (theirs, ours) in [
            ("temb.dense.0.weight", "time_embedding.linear_1.weight"),
            ("temb.dense.1.bias", "time_embedding.linear_2.bias"),
            ("label_emb.weight", "class_embedding.weight"),
            ("down.1.block.0.temb_proj.bias", "down_blocks.1.resnets.0.time_emb_proj.bias"),
            ("down.1.block.0.nin_shortcut.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("down.1.attn.1.norm.weight", "down_blocks.1.attentions.1.group_norm.weight"),
            ("down.0.downsample.conv.bias", "down_blocks.0.downsamplers.0.conv.bias"),
            ("mid.block_2.conv1.weight", "mid_block.resnets.1.conv1.weight"),
            ("mid.attn_1.q.weight", "mid_block.attentions.0.to_q.weight"),
            ("mid.attn_1.proj_out.bias", "mid_block.attentions.0.to_out.0.bias"),
            ("up.0.block.2.norm1.weight", "up_blocks.3.resnets.2.norm1.weight"),
            ("up.3.upsample.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("norm_out.weight", "conv_norm_out.weight"),
            ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"),
            ("up_blocks.2.attentions.2.proj_attn.bias", "up_blocks.2.attentions.2.to_out.0.bias"),
            ("time_embed.2.weight", "time_embedding.linear_2.weight"),
            ("input_blocks.0.0.bias", "conv_in.bias"),
            ("input_blocks.1.0.emb_layers.1.weight", "down_blocks.0.resnets.0.time_emb_proj.weight"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("input_blocks.3.0.in_layers.2.weight", "down_blocks.0.downsamplers.0.conv1.weight"),
            ("input_blocks.5.1.qkv.weight", "down_blocks.1.attentions.1.qkv.weight"),
            ("input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
            ("middle_block.1.norm.weight", "mid_block.attentions.0.group_norm.weight"),
            ("middle_block.2.out_layers.0.weight", "mid_block.resnets.1.norm2.weight"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.8.1.proj_out.bias", "up_blocks.2.attentions.2.to_out.0.bias"),
            ("output_blocks.8.2.out_layers.3.weight", "up_blocks.2.upsamplers.0.conv2.weight"),
            ("output_blocks.11.0.in_layers.0.bias", "up_blocks.3.resnets.2.norm1.bias"),
            ("out.0.weight", "conv_norm_out.weight"),
            ("out.2.bias", "conv_out.bias"),
        ] {
            assert_eq!(our_name(theirs, &settings).as_deref(), Some(ours), "{theirs}");
        }
        for unknown in [
            "conv_in.weight",
            "up.4.block.0.norm1.weight",
            "up.x.block.0.norm1.weight",
            "input_blocks.1.0.in_layers.1.weight",
            "input_blocks.1.0.weight",
            "middle_block.3.norm.weight",
            "fc.weight",
            "",
        ] {
            assert_eq!(our_name(unknown, &settings), None, "{unknown}");
        }
    }
}
