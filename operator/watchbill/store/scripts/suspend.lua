#!lua flags=allow-oom
-- uses events wake suspend
-- No task of the crew begins from now on, or tasks do again.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 crew
--   3 is_on               1: none begins; 0: again
--   4 hold                why it takes no work either; '': it does
-- Answers
--   {'gone'}
--   {'ok', changed}
local uid, crew, is_on, hold = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
if is_gone(uid) then return { 'gone' } end
return { 'ok', suspend(crew, is_on, hold) and 1 or 0 }
