# Counts words and neighbouring pairs; prints totals and the most frequent pairs.
{
    for (i = 1; i <= NF; i++) {
        words[$i]++
        if (i > 1) pairs[$(i - 1) " " $i]++
        text[$i] = substr(text[$i] $(NF - i + 1), 1, 60)
    }
}
END {
    for (word in words) { total += words[word]; length_of_all += length(text[word]) }
    for (pair in pairs) if (pairs[pair] > 40) kept[++n] = pairs[pair] " " pair
    asort(kept)
    for (i = n; i > 0 && i > n - 50; i--) print kept[i]
    print total, length_of_all, length(pairs)
}
