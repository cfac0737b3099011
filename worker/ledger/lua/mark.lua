-- mark(scope, field: frozen | closed, value: 0 | 1) -> the account's fields | {} where there is none
-- a:<scope> hash; j stream
local scope = ARGV[1]
if redis.call('HEXISTS', account_key(scope), 'cap') == 0 then return {} end
redis.call('HSET', account_key(scope), ARGV[2], ARGV[3])
log('mark', 'scope', scope, ARGV[2], ARGV[3])
return fields_of(scope)
