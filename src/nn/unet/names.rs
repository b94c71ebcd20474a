//! The names that others give to the parameters of a U-Net: those of DDPM's code in PyTorch, and those of diffusers before 2023.
//!
//! Of DDPM's code: `conversion_scripts/convert_ddpm_original_checkpoint_to_diffusers.py` of diffusers says which is which; its levels on the way
//! up are numbered from the finest. Of older diffusers: `_convert_deprecated_attention_blocks`.

/// Our name for another program's name of a parameter, in a U-Net of so many levels.
pub fn our_name(theirs: &str, levels: usize) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::our_name;

    #[test]
    fn names_of_ddpm_and_of_older_diffusers_are_ours() {
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
        ] {
            assert_eq!(our_name(theirs, 4).as_deref(), Some(ours), "{theirs}");
        }
        for unknown in ["conv_in.weight", "up.4.block.0.norm1.weight", "up.x.block.0.norm1.weight", "fc.weight", ""] {
            assert_eq!(our_name(unknown, 4), None, "{unknown}");
        }
    }
}
