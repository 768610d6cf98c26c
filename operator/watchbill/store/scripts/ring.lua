#!lua flags=allow-oom
-- uses nothing
-- Whoever took the bell's token without having room gives it back.
-- KEYS: fixed. ARGV: uid  -> 'gone' | 'ok'
if is_gone(ARGV[1]) then return 'gone' end
ring()
return 'ok'
